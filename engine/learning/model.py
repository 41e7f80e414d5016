"""A trained model as a value, and its artifact: a zip of UBJSON, npz and JSON, never pickle.

The artifact carries everything that a decision depends on: the booster, the share of negatives it was trained on, the
item-to-item neighbours, the blend of sources, the window model and, once a shop has clicks, the click head. It is
refused unless its SHA-256, its feature schema and its own arrays check out.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import xgboost

from engine.errors import ModelRefused
from engine.features import schema
from engine.learning import tastes, windows
from engine.learning.candidates import Blend
from engine.learning.head import Head
from engine.learning.odds import NO_CALIBRATION, calibrated, corrected
from engine.learning.order import Order, chance
from engine.learning.related import Related, sparse
from engine.learning.tastes import Tastes
from engine.learning.windows import WindowModel

FORMAT = 3
"""3: with a click head, window rates by pushes; 2 had neither."""

LIBRARIES = ("numpy", "scipy", "xgboost")
_ARRAYS = ("related_ids", "related_start", "related_item", "related_score", *windows.ARRAYS)
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError)
_LARGEST = 1 << 30
"""Bytes that a member of an artifact may unpack to."""


@dataclass(frozen=True, eq=False)
class Model:
    """What was learned, as of an instant.

    negative_share: share of the negatives that training kept · calibration: (slope, intercept) on the logit after that
    is made up for, (1, 0): none · constants: float32[F], what stands for missing values, NaN keeps them; None: all NaN
    · head: scores clicks by window; None while the shop has too few · order: trees that order within the user, None
    where there are none.
    """

    booster: xgboost.Booster
    negative_share: float
    related: Related
    blend: Blend
    windows: WindowModel
    as_of: datetime
    tastes: Tastes = field(default_factory=tastes.unknown)
    calibration: tuple[float, float] = NO_CALIBRATION
    constants: np.ndarray | None = None
    head: Head | None = None
    order: Order | None = None

    @property
    def regime(self) -> str:
        """goal: the score is P(goal) times the window's rate · click: the head's P(click) in the window."""
        return "goal" if self.head is None else "click"

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """P(goal) of feature rows float32[n, F]: float32[n], corrected for the sampling of negatives, calibrated."""
        raw = chance(self.booster, self.order, self.filled(rows))
        return calibrated(corrected(raw, self.negative_share), self.calibration)

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Feature rows as the booster sees them: with constants for missing values, where the model has any."""
        if self.constants is None:
            return rows
        return np.where(np.isnan(rows), self.constants, rows)


def set_threads(booster: xgboost.Booster, threads: int) -> xgboost.Booster:
    """`booster` itself, predicting with so many threads; 1 in workers, whose parallelism is processes."""
    booster.set_param({"nthread": threads})
    return booster


def pack(model: Model) -> bytes:
    """The artifact of a model; equal models give equal bytes."""
    related = model.related.neighbours
    head = None if model.head is None else model.head.numbers()
    arrays = io.BytesIO()
    parts: dict[str, Any] = {**tastes.to_arrays(model.tastes), **model.windows.arrays()}
    if model.constants is not None:
        parts["constants"] = model.constants
    np.savez(
        arrays,
        related_ids=model.related.ids,
        related_start=related.indptr.astype(np.int64),
        related_item=related.indices.astype(np.int32),
        related_score=related.data.astype(np.float32),
        **parts,
    )
    manifest = {
        "format": FORMAT,
        "head": head,
        "features": list(schema.NAMES),
        "schema": schema.fingerprint(),
        "negative_share": model.negative_share,
        "calibration": list(model.calibration),
        "order": None if model.order is None else [model.order.slope, model.order.intercept],
        "blend": asdict(model.blend),
        "as_of": model.as_of.isoformat(),
        "libraries": libraries(),
    }
    packed = io.BytesIO()
    members = [
        ("manifest.json", json.dumps(manifest, sort_keys=True).encode()),
        ("booster.ubj", bytes(model.booster.save_raw("ubj"))),
        ("arrays.npz", arrays.getvalue()),
    ]
    if model.order is not None:
        members.append(("order.ubj", bytes(model.order.booster.save_raw("ubj"))))
    if model.head is not None and model.head.trees is not None:
        members.append(("head.ubj", bytes(model.head.trees.save_raw("ubj"))))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def unpack(artifact: bytes, sha256: str) -> Model:
    """The model in an artifact. Raises ModelRefused with the reason where anything about it is wrong."""
    if digest(artifact) != sha256:
        raise ModelRefused(
            "the model's bytes are not those that were registered (SHA-256 differs)",
            hint="it was damaged or replaced: promote another version (horae models list) or run horae train",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
            if any(member.file_size > _LARGEST for member in archive.infolist()):
                raise ModelRefused("the model's artifact unpacks to more than 1 GiB")
            manifest = json.loads(archive.read("manifest.json"))
            _check_manifest(manifest)
            arrays = np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False)
            booster = xgboost.Booster(model_file=bytearray(archive.read("booster.ubj")))
            head, order = _head(manifest["head"], archive), _order(manifest["order"], archive)
            return _assembled(manifest, booster, head, order, {name: arrays[name] for name in arrays.files})
    except (*_UNREADABLE, xgboost.core.XGBoostError) as error:
        raise ModelRefused(f"the model's artifact cannot be read: {error}", hint="train again: horae train") from error


def digest(artifact: bytes) -> str:
    """SHA-256 of an artifact, hex."""
    return hashlib.sha256(artifact).hexdigest()


def libraries() -> dict[str, str]:
    """Versions of what a model's numbers depend on."""
    # the distribution is xgboost or xgboost-cpu, by platform
    return {name: xgboost.__version__ if name == "xgboost" else version(name) for name in LIBRARIES}


def _check_manifest(manifest: dict[str, Any]) -> None:
    made_as = manifest["format"]
    if made_as != FORMAT:
        older = isinstance(made_as, int) and made_as < FORMAT
        raise ModelRefused(
            f"the model was made by {'an older' if older else 'a newer'} version of Horae (format {made_as}, this one"
            f" reads {FORMAT})",
            hint="train again: horae train" if older else "update this installation, or train again: horae train",
        )
    newer, here = manifest["libraries"]["xgboost"], xgboost.__version__
    if _release(newer) > _release(here):
        raise ModelRefused(
            f"the model was made with XGBoost {newer}, newer than the {here} here, which may read it wrongly",
            hint="install that version or a newer one, or train again: horae train",
        )
    if manifest["schema"] != schema.fingerprint():
        theirs, ours = set(manifest["features"]), set(schema.NAMES)
        differs = ", ".join(sorted(theirs ^ ours)[:5]) or "their order or types differ"
        raise ModelRefused(f"the model was trained on other features ({differs})", hint="train again: horae train")


def _release(number: str) -> tuple[int, int]:
    major, minor = number.split(".")[:2]
    return int(major), int(minor)


def _head(numbers: dict[str, Any] | None, archive: zipfile.ZipFile) -> Head | None:
    if numbers is None:
        return None
    trees = None
    if numbers["trees"]:
        trees = set_threads(xgboost.Booster(model_file=bytearray(archive.read("head.ubj"))), 1)
    bias, taste, hour = (float(numbers[name]) for name in ("bias", "taste", "hour"))
    slope, intercept = (float(number) for number in numbers["calibration"])
    sound = np.isfinite([bias, taste, hour, intercept]).all() and min(taste, hour) >= 0 and 0 < slope < 10
    if not sound or (trees is not None and trees.num_features() != schema.COUNT):
        raise ModelRefused("the model's click head contradicts itself", hint="train again: horae train")
    return Head(bias, taste, hour, trees, (slope, intercept))


def _order(numbers: list[float] | None, archive: zipfile.ZipFile) -> Order | None:
    if numbers is None:
        return None
    slope, intercept = (float(number) for number in numbers)
    trees = set_threads(xgboost.Booster(model_file=bytearray(archive.read("order.ubj"))), 1)
    if trees.num_features() != schema.COUNT or not 0 < slope < 10 or not -10 < intercept < 10:
        raise ModelRefused("the model's trees that order contradict themselves", hint="train again: horae train")
    return Order(trees, slope, intercept)


def _assembled(
    manifest: dict[str, Any],
    booster: xgboost.Booster,
    head: Head | None,
    order: Order | None,
    arrays: dict[str, np.ndarray],
) -> Model:
    ids, start = arrays["related_ids"], arrays["related_start"]
    item, score = arrays["related_item"], arrays["related_score"]
    curves = windows.from_arrays(arrays)
    share = float(manifest["negative_share"])
    slope, intercept = (float(number) for number in manifest["calibration"])
    consistent = (
        booster.num_features() == schema.COUNT
        and len(start) == len(ids) + 1
        and start[-1] == len(item) == len(score)
        and (not len(item) or (item.min() >= 0 and item.max() < len(ids)))
        and bool(np.isfinite(score).all())
        and 0 < share <= 1
        and 0 < slope < 10
        and -10 < intercept < 10
    )
    constants = arrays.get("constants")
    consistent = consistent and (constants is None or constants.shape == (schema.COUNT,))
    if curves is None or not consistent:
        raise ModelRefused("the model's artifact contradicts itself", hint="train again: horae train")
    neighbours = sparse.csr_array((score, item, start), shape=(len(ids), len(ids)))
    return Model(
        booster=set_threads(booster, 1),
        negative_share=share,
        related=Related(ids, neighbours),
        blend=Blend(**manifest["blend"]),
        windows=curves,
        as_of=datetime.fromisoformat(manifest["as_of"]),
        tastes=tastes.from_arrays(arrays),
        calibration=(slope, intercept),
        constants=constants,
        head=head,
        order=order,
    )
