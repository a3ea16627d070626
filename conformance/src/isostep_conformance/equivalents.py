"""Mutants that are the same rule: survivors that no input could tell apart, each with the reason why.

``rule`` and ``mutant`` are patterns. A mutant that only some settings of its rule do not tell from the truth is killed
by the others, and does not belong here. An entry that explains no surviving mutant is an error, so the list cannot
outlive what it explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Equivalent:
    """One explained kind of survivor; ``[`` in ``mutant`` is literal."""

    rule: str
    mutant: str
    reason: str

    def speaks_of(self, rule: str) -> bool:
        """Whether it is about this rule or composition."""
        return fnmatchcase(rule, self.rule)

    def explains(self, rule: str, mutant: str) -> bool:
        """Whether it explains this survivor."""
        return self.speaks_of(rule) and fnmatchcase(mutant, self.mutant.replace("[", "[[]"))


_MASKED = "the value is used only where an outer choice replaces it"
_CONTINUOUS = (
    "both branches agree at the threshold, so it does not matter on which side equality falls"
)

_ANGLE = "of m = 0 the angle is 0 beside any number: the choice is for the derivative"

EQUIVALENTS: tuple[Equivalent, ...] = (
    Equivalent(
        "*lamb*",
        "always the second branch: where((sqrt(sum(...)) == 0), 1.0, sqrt(sum(mul(...))))*",
        _MASKED,
    ),
    Equivalent(
        "*lamb*",
        "right operand dropped: ((sqrt(sum(...)) == 0) or (sqrt(sum(...)) == 0))*",
        "where the norm of r is 0, r is 0, and so is the update whatever the ratio",
    ),
    Equivalent(
        "*clip_by_global_norm*", "always the second branch: where((sqrt(squared_norm) < *", _MASKED
    ),
    Equivalent(
        "*clip_by_global_norm*", "lt -> le: (sqrt(sum_group(mul(...))) < *max_norm)*", _CONTINUOUS
    ),
    Equivalent("*clip_by_global_norm*", "x 1.01: 1.0*", _MASKED),
    Equivalent(
        "clip_by_norm+adamw", "always the second branch: where((sqrt(sum(...)) < *", _MASKED
    ),
    Equivalent("clip_by_norm+adamw", "lt -> le: (sqrt(sum(mul(...))) < *max_norm)*", _CONTINUOUS),
    Equivalent("clip_by_norm+adamw", "x 1.01: 1.0*", _MASKED),
    Equivalent("*adaptive_clip*", "lt -> le: (sqrt(sum_units(mul(...), *", _CONTINUOUS),
    Equivalent(
        "normalize_gradient+*",
        "right operand dropped: maximum((*size(g*) - 1), 1)",
        "it is there for the derivative of one element's deviation, whose value an outer choice replaces",
    ),
    Equivalent("*trust_ratio*", "always the second branch: where(((size_p == 0) or *", _MASKED),
    Equivalent("*trust_ratio*", "abs dropped: abs(lr)*", "no case has a negative learning rate"),
    Equivalent(
        "*orthogonal_gradient*",
        "x 1.01: orthogonal_gradient.least*",
        "no case has |o| / |g| within a hundredth of the bound; it is far below or far above",
    ),
    Equivalent(
        "adam_hd",
        "left operand dropped: (1.0 * sqrt(*",
        "a factor of one: the direction is that of lr = -1",
    ),
    Equivalent(
        "adam_hd",
        "right operand dropped: maximum((t - 1), 1)",
        "at t = 1, where it acts, advance skips the sum",
    ),
    Equivalent(
        "adam_hd",
        "sum of one array only: *",
        "with the authors' dialect each parameter is a group of its own",
    ),
    *(
        Equivalent(rule, "x 1.01: 1.1754943508222875e-38*", "it divides a zero")
        for rule in ("*sgd_hd*", "adam_hd")
    ),
    Equivalent(
        "*sgd_hd*",
        "always the first branch: where((t > 1), *[phase (1,)]",
        "a synchronising step is never the first",
    ),
    Equivalent(
        "*sgd_hd*", "gt -> ge: (t > 1) [phase (1,)]", "a synchronising step is never the first"
    ),
    Equivalent(
        "*sgd_hd*",
        "t ? 1: t [phase (1,)]",
        "a synchronising step is never the first, nor next to it",
    ),
    Equivalent("*sgd_hd*", "x 1.01: 1.0 [phase (1,)]", "a synchronising step is never the first"),
    Equivalent("adafactor", "size -> unit_size: * [1-d]", "a vector is one unit"),
    Equivalent("came", "size -> unit_size: * [1-d]", "a vector is one unit"),
    Equivalent("adafactor", "sum of each unit only: * [1-d]", "a vector is one unit"),
    Equivalent("came", "sum of each unit only: * [1-d]", "a vector is one unit"),
    *(
        Equivalent(rule, "size -> unit_size: * [1-d]", "a vector is one unit")
        for rule in ("adammini", "amos")
    ),
    *(
        Equivalent(
            rule,
            "right operand dropped: maximum(*size((g * g)*",
            "it acts on arrays without elements, and the program of another shape is what is changed",
        )
        for rule in ("adammini", "amos")
    ),
    *(
        Equivalent(
            rule,
            "gt -> ge: (((div(...) - 1) - (mul(...) / *",
            "the length of the average is a fraction that only rounding can make equal to the bound",
        )
        for rule in ("ranger", "schedule_free_radam", "adabelief", "diffgrad")
    ),
    Equivalent(
        "ranger",
        "x 1.01: 5",
        "with the cases' beta2 the length passes 5 at t = 6, a step of the other phase",
    ),
    Equivalent("schedule_free_*", "x 1.01: 1.0", "it divides a zero: the sum of weights is zero"),
    Equivalent(
        "fromage",
        "always the second branch: where((sqrt(sum(...)) == 0), 1.0, sqrt(sum(mul(...))))",
        _MASKED,
    ),
    Equivalent(
        "lars",
        "always the second branch: where(((size_p == 0) or (size_g == 0)), 1.0, (*+ eps))",
        _MASKED,
    ),
    *(
        Equivalent(
            "radam",
            f"{swap}: (((div(...) - 1) - (mul(...) / c2)) >*",
            "the length of the average is a fraction that only rounding can make equal to the bound",
        )
        for swap in ("gt -> ge", "ge -> gt")
    ),
    *(
        Equivalent(
            rule,
            "always the first branch: where(((*) >*, ((sub(...) * sub(...)) * (*",
            "it keeps derivatives finite: where it matters the factor is not used",
        )
        for rule in ("radam", "ranger", "adabelief", "diffgrad")
    ),
    # Without degenerated_to_sgd; else the same number is also what the average is multiplied by before the bound.
    *(Equivalent(rule, "x 1.01: 1.0", _MASKED) for rule in ("radam", "adabelief", "diffgrad")),
    *(
        Equivalent(
            "adamw+lookahead", f"{mutant} [phase (1,)]", "the momentum is reset to zero in any case"
        )
        for mutant in (
            "abs dropped: abs(p)",
            "right operand dropped: (0.0 * abs(p))",
            "always the second branch: where(isfinite(p), (0.0 * abs(p)), 0.0)",
        )
    ),
    Equivalent("muon", "*: (lr * 1.0) [2-d]", "the shape's factor is one for a wide matrix"),
    Equivalent(
        "acprop", "always the first branch: where((t > 1), (-expm1(mul(...))), 1.0)", _MASKED
    ),
    Equivalent("adai", "x 1.01: 1.0", _MASKED),
    Equivalent(
        "laprop",
        "x 1.01: steps_before_using_centered*",
        "no whole number of steps lies between it and a hundredth more",
    ),
    Equivalent(
        "laprop",
        "new max_exp_avg_sq for old*",
        "the new one is the old one or the larger of it and s, and is compared with s again",
    ),
    Equivalent("adasmooth", "x 1.01: 1.0", "it divides a zero: where n is zero, so is s"),
    Equivalent("momo*", "x 1.01: 1.1754943508222875e-38", "it divides a zero"),
    Equivalent(
        "momo*",
        "right operand dropped: maximum(sum_group((d * *)), 1.1754943508222875e-38)",
        "what divides zero by it is tau = lr in any case; only where h is below the bound too it matters",
    ),
    Equivalent(
        "momo*",
        "lt -> le: (* < fstar)",
        "a quotient of sums that only rounding can make equal to the bound",
    ),
    Equivalent("*dog", "x 1.01: 1*", "t is a whole number, and is compared with one below 2"),
    Equivalent("cocob", "x 1.01: 1.0", "it divides a zero: there has been no gradient yet"),
    Equivalent("polyak_sgd", "x 1.01: 1.1754943508222875e-38", "it divides a zero"),
    Equivalent(
        "polyak_sgd",
        "right operand dropped: maximum(((group c * *), 1.1754943508222875e-38)",
        "what is divided by zero is more than lr in any case; only where the gap is zero too it matters",
    ),
    Equivalent("swats", "x 1.01: phase", "phase is only compared, with 0 and with 1"),
    Equivalent(
        "swats",
        "lt -> le: (abs((corrected - rate)) < group threshold)",
        "a difference of averages that only rounding can make equal to the threshold",
    ),
    Equivalent(
        "swats", "always the second branch: where((sum_group(mul(...)) == 0), 1.0, *", _MASKED
    ),
    Equivalent("dadapt_[al]*", "x 1.01: 1.0", "what it divides is zero where it stands for a norm"),
    Equivalent(
        "adashift",
        "right operand dropped: maximum((t - *",
        "it acts while t <= keep_num, when nothing comes of it",
    ),
    Equivalent(
        "shampoo",
        "x 1.01: eps *",
        "no sum has an eigenvalue below eps but by rounding, and no gradient has a part where it is eps",
    ),
    Equivalent("soap", "update negated [phase (1,)]*", "the first step has no update"),
    Equivalent("psgd_kron", "x 1.01: 1.1754943508222875e-38*", "it divides a zero"),
    Equivalent("psgd_kron", "size -> unit_size: * [1-d]", "a vector is one unit"),
    Equivalent("psgd_kron", "sum of each unit only: * [1-d]", "a vector is one unit"),
    Equivalent(
        "psgd_kron",
        "left operand dropped: maximum(reshape(max_axis(x, (-2, -1)), ()), 1.1754943508222875e-38)*",
        "a matrix is divided by it and its norm multiplied: any number will do that keeps it in range",
    ),
    Equivalent("prodigy", "x 1.01: 1.0", "it divides a zero: there has been no gradient yet"),
    Equivalent(
        "prodigy",
        "gt -> ge: (((group d_coef * numerator) / where(*",
        "the estimate is a quotient of sums that only rounding can make equal to the last one",
    ),
    Equivalent(
        "nero",
        "x 1.01: 1.0 [*",
        "it stands for a divisor that is zero, and what is divided is zero too",
    ),
    *(
        entry
        for rule in ("adamp", "sgdp")
        for entry in (
            Equivalent(
                rule,
                "right operand dropped: ((not (mul(...) < delta)) or isnan(p))",
                "a unit with a NaN is not below delta: it makes what is counted elements, not units",
            ),
            Equivalent(
                rule,
                "x 1.01: 1.0",
                "a count that is only compared with zero; as the factor of the decay it is killed",
            ),
        )
    ),
    Equivalent(
        "adamp",
        "sum of each unit only: sum(where((not(...) or isnan(...)), 1.0, 0.0))",
        "the units are on the last axis: every row has the same count",
    ),
    Equivalent(
        "ranger21",
        "lt -> le: (sqrt(sum_units(mul(...), -1)) < (clipping * maximum(size, agc_eps)))*",
        _CONTINUOUS,
    ),
    Equivalent(
        "ranger21",
        "always the second branch: where(((sqrt(...) / sqrt(...)) == 0), 1.0, *",
        _MASKED,
    ),
    Equivalent(
        "normuon",
        "*: (sqrt(sum(mul(...))) * 1.0) [2-d]",
        "the shape's factor is one for a wide matrix",
    ),
    Equivalent("scion", "sum of each unit only: * [1-d]", "a vector is one unit"),
    Equivalent("scion", "size -> unit_size: * [1-d]", "a vector is one unit"),
    Equivalent(
        "msvag",
        "always the first branch: where((t > 1), (1 - (sub(...) / c)), 0.0)*",
        "at t = 1 the weight of the gradient is one, and nothing is left",
    ),
    Equivalent(
        "adanorm",
        "gt -> ge: (((mul(...) + mul(...)) / where(eq(...), 1.0, size)) > 1)*",
        _CONTINUOUS,
    ),
    Equivalent("adam_atan2", "x 1.01: 0*", _ANGLE),
    Equivalent("adam_atan2", "x 1.01: 1.0*", _ANGLE),
    Equivalent(
        "adam_atan2", "eq -> ne: (((betas[1] * exp_avg_sq) + (sub(...) * mul(...))) == 0)*", _ANGLE
    ),
    Equivalent("adam_atan2", "right operand dropped: (((mul(...) + mul(...)) == 0) and *", _ANGLE),
    Equivalent("adam_atan2", "always the second branch: where(((m == 0) and *", _ANGLE),
    Equivalent("sgd_sai", "sum of each unit only: * [1-d]", "a vector is one unit"),
    Equivalent("sgd_sai", "size -> unit_size: * [1-d]", "a vector is one unit"),
    Equivalent(
        "sgd_sai",
        "right operand dropped: maximum((size(g) - 1), 1)*",
        "it acts on one element, and the program of another rank is what is changed",
    ),
    Equivalent(
        "stable_spam",
        "x 1.01: 1.0*",
        "of zeros every quotient is zero, whatever they are divided by",
    ),
    Equivalent(
        "stable_spam",
        "gt -> ge: (abs(g) > ((mul(...) + mul(...)) / (-expm1(...))))*",
        "the one element that is as large as the bound is the largest, of which both branches are the same",
    ),
    Equivalent(
        "adagc+lamb", "abs dropped: abs(g)*", "the peak is a unit: in another the norm is the same"
    ),
    Equivalent("adagc+lamb", "sum of each unit only: * [1-d]", "a vector is one unit"),
)
