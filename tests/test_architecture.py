"""The layout: which package may import which, where each library is used, how long a module may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import claude_usage_mqtt

PACKAGE = Path(claude_usage_mqtt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350

BASE = {"errors", "clock", "logs", "topics", "instants", "untrusted", "secret_file", ""}
"""Modules that all may import, and that import only each other; "" is the package itself, for its version."""

MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "": {"errors", "library", "usage"},
    "secret_file": {"errors"},
    "usage": BASE,
    "homeassistant": BASE | {"usage"},
    "mqtt": BASE,
    "sources": BASE | {"usage"},
    "settings": BASE | {"usage", "sources", "mqtt"},
    "service": BASE | {"usage", "sources", "homeassistant", "mqtt"},
    "reporter": BASE | {"usage", "sources", "mqtt", "service"},
    "library": BASE | {"usage", "sources"},
    "recipes": BASE | {"settings"},
    "demo": BASE,
    "__main__": {"cli"},
    "cli": BASE | {"usage", "sources", "homeassistant", "mqtt", "service", "reporter", "settings", "recipes", "demo"},
}

ONLY_IN = {
    "httpx": {"sources/api/"},
    "paho": {"mqtt/"},
    "pydantic": {"settings/"},
    "pydantic_settings": {"settings/"},
    "dotenv": {"settings/"},
    "amqtt": {"demo/"},
    "rich": {"cli/"},
}

PURE = ("usage", "homeassistant")
WITHOUT_IO = {"__future__", "claude_usage_mqtt", "collections", "dataclasses", "datetime", "re", "typing"}
"""What a pure package may import; more of the standard library may be added if it has no I/O and no clock."""

HEAVY = ("pydantic", "pydantic_settings", "httpx", "paho", "amqtt", "rich", "asyncio", "logging", "socket", "argparse")


def name_of(path: Path) -> str:
    """Return a module's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def package_of(path: Path) -> str:
    """Return the package or module directly below ours that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Return what a module imports anywhere in it, including late imports and those for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_imported(path: Path) -> set[str]:
    """Return our packages that a module imports from, except its own."""
    found = set()
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "claude_usage_mqtt":
            package = parts[1] if len(parts) > 1 else ""
            is_ours = (PACKAGE / package).is_dir() or (PACKAGE / f"{package}.py").is_file()
            found.add(package if is_ours else "")
    return found - {package_of(path)}


def loaded_by(code: str) -> set[str]:
    """Return the modules that a bare interpreter has loaded after running `code`, except those that it always loads."""
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    return set(ended.stderr.split())


def test_every_package_is_on_the_plan() -> None:
    """A new package or module at the top is placed deliberately, or this fails."""
    assert {package_of(path) for path in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    """A change in an upper package cannot affect the lower ones: cli, service, sources and mqtt, usage, base."""
    assert packages_imported(path) <= MAY_IMPORT[package_of(path)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_library_has_one_place(path: Path) -> None:
    """A new major version of a library affects only one package."""
    for library in {module.split(".")[0] for module in imports(path)} & set(ONLY_IN):
        assert any(name_of(path).startswith(place) for place in ONLY_IN[library]), library


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) in PURE], ids=name_of)
def test_what_decides_about_numbers_does_no_io(path: Path) -> None:
    """A computed value depends only on its arguments, so that it can be tested and trusted."""
    assert {module.split(".")[0] for module in imports(path)} <= WITHOUT_IO


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_fits_on_a_few_screens_and_says_why_it_exists(path: Path) -> None:
    """A maintainer can read a module in one go."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text))


def test_a_program_loads_only_what_it_uses() -> None:
    """A reporter on a laptop stays small, and so does a service without Claude Code or a Mac's Keychain."""
    service = {"claude_usage_mqtt.service.loop", "claude_usage_mqtt.service.account", "claude_usage_mqtt.homeassistant"}
    sources = {"claude_usage_mqtt.sources.claude_code", "claude_usage_mqtt.sources.credentials.keychain"}
    assert not loaded_by("import claude_usage_mqtt.cli.report") & (service | sources)
    assert not loaded_by("import claude_usage_mqtt.cli.run") & sources


def test_the_service_loads_hardly_more_than_its_libraries_do() -> None:
    """On a small box its memory is that of its three libraries, and its own code: .github/PERFORMANCE.md."""
    libraries = loaded_by("import paho.mqtt.client, httpx, pydantic_settings")
    service = loaded_by("import claude_usage_mqtt.cli.commands, claude_usage_mqtt.cli.run")
    others = {module for module in service - libraries if not module.startswith("claude_usage_mqtt")}
    assert others <= {"mmap", "queue", "_queue"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_wait_ends(path: Path) -> None:
    """`queue.SimpleQueue` waits forever, up to Python 3.12, if its timeout ends while it is interrupted."""
    names = {
        node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert "SimpleQueue" not in names


def test_importing_the_package_costs_nothing() -> None:
    """A program that uses a part of it as a library loads only that part."""
    assert loaded_by("import claude_usage_mqtt") == {"claude_usage_mqtt"}


def test_healthcheck_loads_little() -> None:
    """Asked every minute on a small box, it must not load what the service needs."""
    loaded = loaded_by("import claude_usage_mqtt.cli\nclaude_usage_mqtt.cli.main(['healthcheck'])")
    assert {module.split(".")[0] for module in loaded} & set(HEAVY) == set()
    assert {module for module in loaded if module.startswith("claude_usage_mqtt")} == {
        "claude_usage_mqtt",
        "claude_usage_mqtt.cli",
        "claude_usage_mqtt.cli.healthcheck",
        "claude_usage_mqtt.service",
        "claude_usage_mqtt.service.liveness",
    }


def test_help_and_version_need_no_library() -> None:
    """`--help` answers at once, even if an installation is broken."""
    loaded = loaded_by("import claude_usage_mqtt.cli\nclaude_usage_mqtt.cli.main(['--help'])")
    assert {module.split(".")[0] for module in loaded} & {"pydantic", "httpx", "paho", "amqtt", "rich"} == set()
