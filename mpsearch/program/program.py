"""The graph as a torch program: kernels in order, values in slots, each freed after its last use.

A program is compiled once. What is run of it is a schedule: all of it, or only what must be computed
anew when some layers change and other values are at hand.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.constants import ConstantTensors
from mpsearch.program.operators.attributes import Kernel

ABSENT = -1
"""Slot of an absent optional input; the last slot of every program, always None."""

UNBOUNDED = sys.maxsize
Values = list[Tensor | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One node, ready to run.

    Attributes:
        index: Its place in the program.
        node: What it computes.
        kernel: Takes the inputs' tensors.
        inputs: Slots; -1 where absent.
        outputs: Slots; -1 where unused.
        layer: Index of the layer that the node is, -1 for all other nodes.
        native: Whether torch computes it, with a gradient where the operator has one.
        bodies: Programs of its subgraphs.
    """

    index: int
    node: Node
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layer: int = -1
    native: bool = True
    bodies: "tuple[Program, ...]" = ()

    def layers(self) -> tuple[int, ...]:
        """Return the layers that run in it: itself, or those of its subgraphs."""
        own = (self.layer,) if self.layer >= 0 else ()
        return own + tuple(
            layer for body in self.bodies for step in body.steps for layer in step.layers()
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph.

    Attributes:
        steps: All steps, in topological order.
        slots: Value name to slot.
        constants: Slot to tensor of every initialiser.
        inputs: Names of what is fed.
        outputs: Names of what is returned.
        device: Where tensors live.
    """

    steps: tuple[Step, ...]
    slots: Mapping[str, int]
    constants: ConstantTensors
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: torch.device

    def make_values(self) -> Values:
        """Return a fresh list of slots that holds the constants that are at hand only."""
        values: Values = [None] * (len(self.slots) + 1)
        for slot, tensor in self.constants.held.items():
            values[slot] = tensor
        return values

    def enter(self, feed: Mapping[str, Tensor]) -> Values:
        """Return fresh values that hold ``feed``, input name to tensor, beside the constants."""
        values = self.make_values()
        for name, tensor in feed.items():
            values[self.slots[name]] = tensor
        return values

    def fallbacks(self) -> tuple[Step, ...]:
        """Return the steps that onnxruntime computes: no gradient passes them."""
        inner = (step for outer in self.steps for body in outer.bodies for step in body.fallbacks())
        return tuple(step for step in self.steps if not step.native) + tuple(inner)

    def find_layers(self) -> "dict[int, tuple[Program, Step]]":
        """Return layer to its step, and the program (or subgraph's program) that it stands in."""
        found: dict[int, tuple[Program, Step]] = {}
        for step in self.steps:
            if step.layer >= 0:
                found[step.layer] = (self, step)
            for body in step.bodies:
                found.update(body.find_layers())
        return found
