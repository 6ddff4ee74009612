"""What all tests share: strict arithmetic, the reference folder, and which tests may be skipped."""

import atexit
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

# Before TensorFlow is imported; child processes inherit it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["MICRONETS_BOARDS"] = ""  # predictions of tests go by no board of whoever runs them

# Before JAX is imported: tests and the runs that they start share what they compile, and nothing
# that was compiled before.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="micronets-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import hypothesis
import jaxtyping
import pytest

hypothesis.settings.register_profile(
    "house", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("house")

pytest.register_assert_rewrite("support")

SOURCE = pathlib.Path(__file__).parents[1] / "src"


def with_shapes() -> list[str]:
    """Names of the modules whose arrays have their shapes and dtypes in the types."""
    found = (path for path in SOURCE.rglob("*.py") if "jaxtyping" in path.read_text())
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in found]
    return [name.removesuffix(".__init__") for name in names]


# These are checked at run time. All other types are checked by make lint; checked here too, the
# compiler's plans would take fifteen times as long.
jaxtyping.install_import_hook(with_shapes(), "beartype.beartype")

NO_SKIPS = "MICRONETS_NO_SKIPS"
"""Set, it turns every skip into a failure whose reason does not say "accelerator"."""

COUNTING = {
    "budgets",
    "cost",
    "counts",
    "decisions",
    "devices",
    "latency",
    "mcunet",
    "memory",
    "network",
    "spaces",
    "zoo",
}
"""Rooms that compute with counts, where shapes of different rank meet only by mistake."""


@pytest.fixture(autouse=True)
def strict_ranks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raises on implicit rank promotion in the rooms that count.

    Elsewhere a vector of channels meets images by their last axis on purpose.
    """
    if request.path.stem.removeprefix("test_") not in COUNTING:
        yield
        return
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The folder of published numbers, models and recordings; skips where it is not given."""
    folder = os.environ.get("MICRONETS_REFERENCE")
    if not folder:
        pytest.skip("set MICRONETS_REFERENCE to the folder of reference numbers to run this test")
    path = pathlib.Path(folder)
    if not path.is_dir():
        pytest.fail(f"MICRONETS_REFERENCE={folder} is not a folder")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("accelerator"):
        import jax

        if jax.default_backend() == "cpu":
            pytest.skip("needs an accelerator: JAX sees only a CPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    return _without_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    return _without_skips((yield))


def _without_skips(report):
    if os.environ.get(NO_SKIPS) and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "accelerator" not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped although {NO_SKIPS} is set: {reason}"
    return report
