"""A trained model as a value, and its artifact: a zip of UBJSON, npz and JSON, never pickle.

The artifact carries everything that a decision depends on: the booster, the share of negatives it was trained on, the
item-to-item neighbours, the blend of sources and the window model. It is refused unless its SHA-256, its feature schema
and its own arrays check out.
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
from engine.learning.related import Related, sparse
from engine.learning.tastes import Tastes
from engine.learning.windows import WindowModel

FORMAT = 2
REGIMES = ("goal", "click")
LIBRARIES = ("numpy", "scipy", "xgboost")
_ARRAYS = ("related_ids", "related_start", "related_item", "related_score", *windows.ARRAYS)
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError)
_LARGEST = 1 << 30
"""Bytes that a member of an artifact may unpack to."""


@dataclass(frozen=True, eq=False)
class Model:
    """What was learned, as of an instant.

    negative_share: share of the negatives that training kept · calibration: (slope, intercept) on the logit after that
    is made up for, (1, 0): none · constants: float32[F], what stands for missing values, NaN keeps them; None: all NaN.
    """

    regime: str
    booster: xgboost.Booster
    negative_share: float
    related: Related
    blend: Blend
    windows: WindowModel
    as_of: datetime
    tastes: Tastes = field(default_factory=tastes.unknown)
    calibration: tuple[float, float] = (1.0, 0.0)
    constants: np.ndarray | None = None

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """P(label) of feature rows float32[n, F]: float32[n], corrected for the sampling of negatives, calibrated."""
        raw = self.booster.inplace_predict(self.filled(rows), validate_features=False)
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
        "regime": model.regime,
        "features": list(schema.NAMES),
        "schema": schema.fingerprint(),
        "negative_share": model.negative_share,
        "calibration": list(model.calibration),
        "blend": asdict(model.blend),
        "as_of": model.as_of.isoformat(),
        "libraries": libraries(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (
            ("manifest.json", json.dumps(manifest, sort_keys=True).encode()),
            ("booster.ubj", bytes(model.booster.save_raw("ubj"))),
            ("arrays.npz", arrays.getvalue()),
        ):
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
            return _assembled(manifest, booster, {name: arrays[name] for name in arrays.files})
    except (*_UNREADABLE, xgboost.core.XGBoostError) as error:
        raise ModelRefused(f"the model's artifact cannot be read: {error}", hint="run horae train") from error


def digest(artifact: bytes) -> str:
    """SHA-256 of an artifact, hex."""
    return hashlib.sha256(artifact).hexdigest()


def libraries() -> dict[str, str]:
    """Versions of what a model's numbers depend on."""
    # the distribution is xgboost or xgboost-cpu, by platform
    return {name: xgboost.__version__ if name == "xgboost" else version(name) for name in LIBRARIES}


def _check_manifest(manifest: dict[str, Any]) -> None:
    if manifest["format"] != FORMAT:
        raise ModelRefused(f"the model's artifact has format {manifest['format']}, this version reads {FORMAT}")
    if manifest["regime"] not in REGIMES:
        raise ModelRefused(f"the model's regime {manifest['regime']!r} is not one of {', '.join(REGIMES)}")
    if manifest["schema"] != schema.fingerprint():
        theirs, ours = set(manifest["features"]), set(schema.NAMES)
        differs = ", ".join(sorted(theirs ^ ours)[:5]) or "their order or types differ"
        raise ModelRefused(
            f"the model was trained on other features ({differs})", hint="run horae train with this version"
        )


def _assembled(manifest: dict[str, Any], booster: xgboost.Booster, arrays: dict[str, np.ndarray]) -> Model:
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
        raise ModelRefused("the model's artifact contradicts itself", hint="run horae train")
    neighbours = sparse.csr_array((score, item, start), shape=(len(ids), len(ids)))
    return Model(
        regime=manifest["regime"],
        booster=set_threads(booster, 1),
        negative_share=share,
        related=Related(ids, neighbours),
        blend=Blend(**manifest["blend"]),
        windows=curves,
        as_of=datetime.fromisoformat(manifest["as_of"]),
        tastes=tastes.from_arrays(arrays),
        calibration=(slope, intercept),
        constants=constants,
    )
