"""The judgement of a smoke test: every expectation that an answer fails, and never a word of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from tasks.costs.prices import PriceBook, find_rates
from tasks.costs.rates import PUSD_PER_USD, Rate
from tasks.costs.rollup import format_usd
from tasks.monitors.verdict import Check, Outcome, Verdict
from tasks.release.model import Release
from tasks.scoring.quality import is_refusal
from tasks.scoring.toxicity import score_toxicity
from tasks.smoke.matching import TooSlowError, broken_places, parse_json, search, similarity
from tasks.smoke.suite import OK, SmokeCase
from tasks.traffic.driver import Answer

_NO_PRICES = PriceBook()


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation that is not met: what is said, and the numbers where it has any."""

    said: str
    value: float | None = None
    limit: float | None = None


def judge_smoke(
    release: Release,
    answers: Sequence[tuple[SmokeCase, Answer]],
    window_start: datetime,
    window_end: datetime,
    book: PriceBook = _NO_PRICES,
) -> Verdict:
    """Hold the answers against the expectations.

    Args:
        release: What was asked.
        answers: The cases, filled with the suite's defaults, and what was answered.
        window_start: When the test began, UTC; its day is that of the prices.
        window_end: When it ended, UTC.
        book: The project's price book; the release's own price comes before it, the public catalogue after it.

    Returns:
        One check for every expectation that is not met, and one for every case that met all of them, in the order of
        the cases. No statement holds a word of an answer.
    """
    spec, rates = release.spec, tuple[Rate, ...]()
    if any(case.max_cost_usd is not None for case, _ in answers):
        rates = find_rates(book, spec.provider, spec.model_id, window_start.date(), spec.price)
    checks = tuple(check for case, answer in answers for check in _checks(release, case, answer, rates))
    return Verdict(
        application=release.application,
        release_digest=release.digest,
        window_start=window_start,
        window_end=window_end,
        checks=checks,
    )


def cost_pusd(rates: Sequence[Rate], input_tokens: int | None, output_tokens: int | None) -> int | None:
    """Return what a call cost, whole pico-USD rounded half even as in the rollup; None where anything is unknown."""
    if input_tokens is None or output_tokens is None:
        return None
    for rate in rates:
        if rate.min_input_tokens <= input_tokens <= (rate.max_input_tokens or input_tokens):
            amount = input_tokens * rate.input_pusd_per_unit + output_tokens * rate.output_pusd_per_unit
            return round(Fraction(amount, rate.unit_tokens))
    return None


def _checks(release: Release, case: SmokeCase, answer: Answer, rates: tuple[Rate, ...]) -> Iterator[Check]:
    limit_ms = case.max_latency_ms or release.spec.monitors.latency_ms
    findings = list(_findings(release, case, answer, rates))
    outcome = Outcome.FAIL if findings else Outcome.PASS
    tries = f" ({answer.tries} tries)" if answer.tries > 1 else ""
    fine = Finding(f"{answer.latency_ms:.0f} ms <= {limit_ms:g} ms{tries}", answer.latency_ms, limit_ms)
    for finding in findings or [fine]:
        said = f"{case.name}: {finding.said}"
        yield Check(monitor="smoke", outcome=outcome, statement=said, value=finding.value, limit=finding.limit, n=1)


def _findings(release: Release, case: SmokeCase, answer: Answer, rates: tuple[Rate, ...]) -> Iterator[Finding]:
    """Yield everything that is wrong with an answer, the gravest first."""
    wanted = case.status or OK
    if answer.status != wanted:
        tries = f" after {answer.tries} tries" if answer.tries > 1 else ""
        yield Finding(f"status {answer.status or 'none'} != {wanted} ({answer.error}){tries}", answer.status, wanted)
    if answer.status:
        yield from _identity(release, answer) if answer.status == wanted else ()
        if answer.status == wanted == OK:
            yield from _text(case, answer.text)
        yield from _latency(case.max_latency_ms or release.spec.monitors.latency_ms, answer)
        if answer.status == wanted:
            yield from _cost(release, case.max_cost_usd, answer, rates)


def _identity(release: Release, answer: Answer) -> Iterator[Finding]:
    if answer.release_digest != release.digest:
        yield Finding(f"answered by release {answer.release_digest[:12] or 'unknown'} != {release.short}")
    elif answer.prompt_sha256 != release.prompt.sha256:
        yield Finding(f"prompt {answer.prompt_sha256[:12] or 'unknown'} != {release.prompt.sha256[:12]}")


def _text(case: SmokeCase, text: str) -> Iterator[Finding]:
    if not text.strip():
        yield Finding("the answer is empty")
        return
    for expectation in _EXPECTATIONS:
        yield from expectation(case, text)


def _words(case: SmokeCase, text: str) -> Iterator[Finding]:
    folded = text.casefold()
    for words, verb, is_wanted in ((case.contains, "does not contain", True), (case.not_contains, "contains", False)):
        wrong = [f"{word!r:.80}" for word in words or () if (word.casefold() in folded) is not is_wanted]
        if wrong:
            yield Finding(f"the answer {verb} {', '.join(wrong)}")


def _pattern(case: SmokeCase, text: str) -> Iterator[Finding]:
    if case.regex is None:
        return
    try:
        if not search(case.regex, text):
            yield Finding(f"the answer does not match the pattern {case.regex!r}")
    except TooSlowError as error:
        yield Finding(f"the answer cannot be held against {case.regex!r}: {error}")


def _json(case: SmokeCase, text: str) -> Iterator[Finding]:
    if not case.is_json and case.json_schema is None:
        return
    try:
        document = parse_json(text)
    except ValueError:
        yield Finding("the answer is no JSON document")
        return
    try:
        places = broken_places(case.json_schema or {}, document)
    except TooSlowError as error:
        places = str(error)
    if places:
        yield Finding(f"the answer breaks its json_schema at {places}")


def _similar(case: SmokeCase, text: str) -> Iterator[Finding]:
    wanted = case.similar_to
    if wanted is not None and (found := similarity(wanted.text, text)) < wanted.at_least:
        yield Finding(f"similarity {found:.2f} < {wanted.at_least:g} to the wanted answer", found, wanted.at_least)


def _refusal(case: SmokeCase, text: str) -> Iterator[Finding]:
    if case.refusal == "forbidden" and is_refusal(text):
        yield Finding("the answer is a refusal, which is forbidden")
    if case.refusal == "required" and not is_refusal(text):
        yield Finding("the answer is no refusal, which is required")


def _toxicity(case: SmokeCase, text: str) -> Iterator[Finding]:
    limit = case.max_toxicity
    if limit is not None and (found := float(score_toxicity([text])[0])) > limit:
        yield Finding(f"toxicity {found:.2f} > limit {limit:g}", found, limit)


_EXPECTATIONS: tuple[Callable[[SmokeCase, str], Iterator[Finding]], ...] = (
    _json,
    _words,
    _pattern,
    _similar,
    _refusal,
    _toxicity,
)


def _latency(limit_ms: float, answer: Answer) -> Iterator[Finding]:
    if answer.latency_ms > limit_ms:
        said = f"latency {answer.latency_ms:.0f} ms > limit {limit_ms:g} ms"
        yield Finding(said, answer.latency_ms, limit_ms)


def _cost(release: Release, limit_usd: Decimal | None, answer: Answer, rates: tuple[Rate, ...]) -> Iterator[Finding]:
    if limit_usd is None:
        return
    cost = cost_pusd(rates, answer.input_tokens, answer.output_tokens)
    if cost is None and (answer.input_tokens is None or answer.output_tokens is None):
        yield Finding("unpriced: the answer says nothing of its tokens", None, float(limit_usd))
    elif cost is None:
        spec = release.spec
        yield Finding(f"unpriced: no price of {spec.provider} {spec.model_id} is known", None, float(limit_usd))
    elif cost > limit_usd * PUSD_PER_USD:
        said = f"cost {format_usd(cost)} USD > limit {limit_usd:f} USD"
        yield Finding(said, cost / PUSD_PER_USD, float(limit_usd))
