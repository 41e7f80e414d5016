"""Horae from a built wheel, in an empty directory: migrations, scripts and assets travel as package data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.store.database import Database

ROOT = Path(__file__).resolve().parents[2]
ASSETS = {".lua", ".html", ".css", ".js", ".svg", ".po", ".txt", ".yaml", ".json", ".mako"}


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True, timeout=120
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline by the backend that pyproject names."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("horae-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel))
    return folder


def run(installed: Path, empty: Path, program: str, *arguments: str) -> str:
    """What `program` prints, with the installed wheel first on the path, in the directory `empty`."""
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False,
        cwd=empty,
        env={"PATH": "/usr/bin:/bin", "HOME": str(empty), "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_every_module_and_asset_of_the_tree_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for folder in ("engine", "tasks", "migrations")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ASSETS | {".py"} and "__pycache__" not in path.parts
    }

    assert wanted - names == set()
    assert "engine/delivery/reserve.lua" in names
    assert any(name.startswith("migrations/versions/") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_the_licence_travels_with_the_wheel(wheel: Path) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_the_wheel_migrates_a_database_from_an_empty_directory(
    installed: Path, empty_database: Database, tmp_path: Path
) -> None:
    printed = run(
        installed,
        tmp_path,
        "import sys, engine\n"
        "from engine.store import schema\n"
        "from engine.store.database import Database\n"
        "database = Database(sys.argv[1])\n"
        "schema.upgrade(database)\n"
        "print(engine.__file__, schema.version_state(database))\n",
        empty_database.libpq_url,
    )

    assert printed == f"{installed / 'engine' / '__init__.py'} current"
    with empty_database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM workspace")).scalar_one() == 1
    assert list(tmp_path.iterdir()) == []


def test_the_console_script_and_the_celery_app_start_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    version = run(
        installed,
        tmp_path,
        "import sys; sys.argv = ['horae', '--version']\nfrom engine.cli import main\nmain()",
    )
    tasks = run(
        installed,
        tmp_path,
        "from tasks.app import app\napp.loader.import_default_modules()\nprint(sorted(app.tasks))",
    )

    assert version.startswith("horae ")
    assert "'horae.plan_shard'" in tasks
    assert list(tmp_path.iterdir()) == []
