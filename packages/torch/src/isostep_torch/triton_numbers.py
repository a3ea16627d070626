"""The scalars of a step as Triton text: from counts and hyperparameters on the device, in float64 as the host would."""

from __future__ import annotations

from isostep.program import Program, ancestors
from isostep.storage import SEED
from isostep.values import Domain, Value, is_bool
from isostep_torch.triton_words import KernelWords, indent


def hyper_names(program: Program) -> list[str]:
    """The hyperparameters that the scalars of a program are made of: the entries of ``hypers``.

    The seed of the noise is the last: a rule's programs for dtypes without noise lack it.
    """
    inputs = (n for n in program.live if n.op == "input" and n.domain <= Domain.STEP)
    return sorted({str(n.attrs[0]) for n in inputs} - {"t"}, key=lambda n: (n == SEED, n))


class Numbers(KernelWords):
    """The scalars of a step on the device: from counts and hyperparameters, in float64 as the host would."""

    def dtype_of(self, node: Value) -> str:
        return "float64"

    def dtype_among(self, node: Value) -> str:
        return "float64"

    def text(self) -> list[str]:
        """``numbers``, a lane for each array, and ``shared_numbers``, for the group's own count."""
        t = "tl.load(tl.load(times + lane, mask=inside, other=0).to(tl.pointer_type(tl.float32)), mask=inside, other=0)"
        own = [
            *(
                "",
                "",
                "@kernel",
                "def numbers(times, hypers, scalars, kinds, LANES: tl.constexpr):",
            ),
            '    """The scalars of each count: the rows of scalars."""',
            "    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)",
            "    inside = lane < kinds",
            *indent(
                self._block("array", t, self.kernels.scalars, "scalars", "lane", ", mask=inside")
            ),
        ]
        count = "item(pointer(times, 0, tl.float32, False), 0)"
        shared = [
            *("", "", "@kernel", "def shared_numbers(times, hypers, shared):"),
            '    """The scalars of the group\'s own count."""',
            *indent(self._block("group", count, self.kernels.shared, "shared", "0", "")),
        ]
        return [
            *(own if self.kernels.scalars else []),
            *(shared if self.kernels.shared else []),
        ]

    def _block(
        self, scope: str, t: str, found: dict[Value, int], table: str, row: str, mask: str
    ) -> list[str]:
        program, order = self.kernels.program, hyper_names(self.kernels.program)
        needed = ancestors(found)
        nodes = [n for n in program.live if n in needed and n.op != "const"]
        inputs = {n: n.attrs[0] for n in nodes if n.op == "input"}
        values = {
            k: f"{self.names[n]}.to(tl.float64)" if is_bool(n) else self.names[n]
            for n, k in found.items()
        }
        return [
            *(
                f"{self.names[n]} = "
                + (
                    f"{t}.to(tl.float64) + 1"
                    if name == "t"
                    else f"item(hypers, {order.index(name)})"
                )
                for n, name in inputs.items()
            ),
            *self.lines(nodes),
            *(
                f"tl.store({table} + {len(found)} * {row} + {k}, {v}{mask})"
                for k, v in values.items()
            ),
        ]
