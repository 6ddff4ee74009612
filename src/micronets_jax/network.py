"""A neural network as a list of layers, concrete or expected.

Invariant: kind, kernel, stride, padding, activation and wiring are static Python values, so every
shape is known while tracing; only channel counts and presence may be traced.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax

from micronets_jax.counts import Count
from micronets_jax.windows import Padding, Window, output_size

Kind = Literal["conv", "depthwise", "dense", "avg_pool", "reshape", "add", "pad", "mix"]
Activation = Literal["linear", "relu", "relu6"]

INPUT = "input"
"""Name of the tensor that enters a network."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operator and the tensor it makes; the tensor bears the layer's name.

    Attributes:
        name: unique in its network.
        kind: ``conv``, ``depthwise`` (multiplier 1), ``dense``, ``avg_pool``, ``reshape`` (to a
            vector), ``add`` (of two tensors alike in shape), ``pad`` (zeros for channels after the
            last, up to ``out_channels``), or ``mix``: one of two tensors, the first if the layer
            that makes it is present. A mix computes nothing once decided and decoding removes it.
        inputs: names of the tensors read, ``"input"`` for the network's own.
        in_channels: channels read, a Python int or their traced expectation.
        out_channels: channels made, likewise.
        kernel: rows and columns.
        stride: rows and columns.
        padding: as TensorFlow defines ``SAME`` and ``VALID``.
        activation: applied to the output.
        presence: 1, or the probability that the layer stays; 0 costs nothing.
        weight_bits: 8 or 4, of each weight once quantised; nothing where there are none.
        activation_bits: 8 or 4, of each element made; nothing where a layer has the range of what
            it reads, as pooling does.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    in_channels: Count
    out_channels: Count
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    activation: Activation = "linear"
    presence: Count = 1
    weight_bits: int = 8
    activation_bits: int = 8


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers in order of execution, and the shape ``(rows, columns, channels)`` of one input."""

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise KeyError(f"no layer named {name!r}; the network has: {known}")


_COUNTS = ["in_channels", "out_channels", "presence"]
jax.tree_util.register_dataclass(
    Layer,
    data_fields=_COUNTS,
    meta_fields=[f.name for f in dataclasses.fields(Layer) if f.name not in _COUNTS],
)
jax.tree_util.register_dataclass(Network, data_fields=["layers"], meta_fields=["input_shape"])


def output_sizes(network: Network) -> dict[str, tuple[int, int]]:
    """Rows and columns of every tensor by name, the input's included.

    Raises:
        ValueError: a layer reads a tensor that no earlier layer made or other than the number its
            kind reads, two layers share a name, a VALID kernel is larger than its input, an
            ``add`` reads tensors of different shapes, or bits are neither 8 nor 4.
    """
    sizes = {INPUT: network.input_shape[:2]}
    channels: dict[str, Count] = {INPUT: network.input_shape[2]}
    for layer in network:
        if layer.name in sizes:
            raise ValueError(f"layer name {layer.name!r} is used twice; names must be unique")
        missing = [name for name in layer.inputs if name not in sizes]
        if missing:
            raise ValueError(
                f"layer {layer.name!r} reads {missing[0]!r}, which no earlier layer makes"
            )
        wanted = 2 if layer.kind in ("add", "mix") else 1
        if len(layer.inputs) != wanted:
            raise ValueError(
                f"layer {layer.name!r} reads {len(layer.inputs)} tensors; "
                f"{layer.kind!r} reads {wanted}"
            )
        for field in ("weight_bits", "activation_bits"):
            if getattr(layer, field) not in (4, 8):
                bits = getattr(layer, field)
                raise ValueError(f"layer {layer.name!r} has {field}={bits}; give 8 or 4")
        if layer.kind == "add":
            _require_alike(layer, *((sizes[name], channels[name]) for name in layer.inputs))
        sizes[layer.name] = _output_size(layer, sizes[layer.inputs[0]])
        channels[layer.name] = layer.out_channels
    return sizes


def _require_alike(layer: Layer, *shapes: tuple[tuple[int, int], Count]) -> None:
    (first, one), (second, other) = shapes
    known = isinstance(one, int) and isinstance(other, int)
    if first != second or (known and one != other):
        raise ValueError(
            f"layer {layer.name!r} adds {layer.inputs[0]!r} of {(*first, one)} and "
            f"{layer.inputs[1]!r} of {(*second, other)}; make them alike: pad the narrower one"
        )


def _output_size(layer: Layer, size: tuple[int, int]) -> tuple[int, int]:
    if layer.kind in ("dense", "reshape"):
        return (1, 1)
    rows, columns = (
        output_size(n, k, s, layer.padding)
        for n, k, s in zip(size, layer.kernel, layer.stride, strict=True)
    )
    if rows < 1 or columns < 1:
        raise ValueError(
            f"layer {layer.name!r}: VALID kernel {layer.kernel} does not fit its input of {size}"
        )
    return rows, columns


def window(layer: Layer, sizes: Mapping[str, tuple[int, int]]) -> Window:
    """How a layer's kernel walks over what it reads; ``sizes`` as :func:`output_sizes` has them."""
    walked = Window.over(sizes[layer.inputs[0]], layer.kernel, layer.stride, layer.padding)
    return dataclasses.replace(walked, out=sizes[layer.name])


def consumers(network: Network) -> dict[str, list[str]]:
    """For every tensor, the names of the layers that read it, in order of execution."""
    readers: dict[str, list[str]] = {INPUT: [], **{layer.name: [] for layer in network}}
    for layer in network:
        for name in layer.inputs:
            readers[name].append(layer.name)
    return readers


def prune(network: Network) -> Network:
    """The decided network without its absent layers and its mixes; costs stay as they were.

    Readers of an absent layer read its first input instead. Every ``presence`` must be a Python 0
    or 1.
    """
    alias: dict[str, str] = {INPUT: INPUT}
    presence = {INPUT: 1, **{layer.name: layer.presence for layer in network}}
    kept = []
    for layer in network:
        if layer.kind == "mix":
            first, second = layer.inputs
            alias[layer.name] = alias[first if presence[first] else second]
        elif layer.presence:
            alias[layer.name] = layer.name
            kept.append(
                dataclasses.replace(layer, inputs=tuple(alias[name] for name in layer.inputs))
            )
        else:
            alias[layer.name] = alias[layer.inputs[0]]
    return Network(network.input_shape, tuple(kept))


def to_json(network: Network) -> str:
    """A decided network as readable JSON, one layer a line."""
    layers = []
    for layer in network:
        fields = dataclasses.asdict(layer)
        del fields["presence"]
        layers.append("    " + json.dumps(fields))
    shape = json.dumps(network.input_shape)
    body = ",\n".join(layers)
    return f'{{\n  "input_shape": {shape},\n  "layers": [\n{body}\n  ]\n}}\n'


def from_json(text: str) -> Network:
    """The inverse of :func:`to_json`.

    Raises:
        ValueError: the text is not a network; the sentence says what is wrong.
    """
    try:
        data = json.loads(text)
        layers = tuple(Layer(**_as_written(fields)) for fields in data["layers"])
        network = Network(tuple(data["input_shape"]), layers)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not a network: {error}") from error
    output_sizes(network)
    return network


def _as_written(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
