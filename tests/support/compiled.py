"""What is compiled, compared with the interpreters."""

from micronets_jax import compile as compiler
from micronets_jax.compile import verify


def check(model: bytes) -> None:
    """Compiles with sanitizers and compares, with and without poisoning of dead bytes."""
    compiled = compiler.compile_model(model)
    verdict = verify.verify(compiled, model, 4, ("-O1", "-g", *verify.SANITIZE))
    assert (verdict.cases, verdict.equal_to[0]) == (8, "TensorFlow Lite Micro")
