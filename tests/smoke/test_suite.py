"""The smoke test: what an answer must be like, and what is said when it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_release import release_of

from tasks.errors import InputError
from tasks.monitors.verdict import Check, Outcome
from tasks.release.model import Monitors
from tasks.smoke.judge import judge_smoke
from tasks.smoke.suite import SmokeCase, SmokeSuite, read_smoke_file
from tasks.traffic.driver import Answer

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(seconds=5)
RELEASE = release_of(monitors=Monitors(latency_ms=1000))
CASE = SmokeCase(name="capital", question="What is the capital of France?", contains=("paris", "city"))
GOOD = Answer(
    status=200,
    release_digest=RELEASE.digest,
    prompt_sha256=RELEASE.prompt.sha256,
    text="PARIS is a City.",
    latency_ms=240.4,
)


def judged(answer: Answer, case: SmokeCase = CASE) -> tuple[Outcome, str]:
    verdict = judge_smoke(RELEASE, [(case, answer)], START, END)
    return verdict.outcome, verdict.reason


def test_a_good_answer_passes_with_its_latency() -> None:
    assert judged(GOOD) == (Outcome.PASS, "capital: 240 ms <= 1000 ms")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (replace(GOOD, status=500, error="HTTP 500"), "status 500 != 200 (HTTP 500)"),
        (replace(GOOD, status=204, error=""), "status 204 != 200 ()"),
        (replace(GOOD, status=0, error="timed out after 30 s"), "status none != 200 (timed out after 30 s)"),
        (replace(GOOD, release_digest="f" * 64), f"answered by release ffffffffffff != {RELEASE.short}"),
        (replace(GOOD, release_digest=""), f"answered by release unknown != {RELEASE.short}"),
        (replace(GOOD, prompt_sha256="e" * 64), f"prompt eeeeeeeeeeee != {RELEASE.prompt.sha256[:12]}"),
        (replace(GOOD, prompt_sha256=""), f"prompt unknown != {RELEASE.prompt.sha256[:12]}"),
        (replace(GOOD, text=""), "the answer is empty"),
        (replace(GOOD, text=" \n\t "), "the answer is empty"),
        (replace(GOOD, text="Paris."), "the answer does not contain 'city'"),
        (replace(GOOD, text="Lyon."), "the answer does not contain 'paris', 'city'"),
        (replace(GOOD, latency_ms=1000.6), "latency 1001 ms > limit 1000 ms"),
    ],
)
def test_each_problem_fails_and_says_what_was_expected(answer: Answer, said: str) -> None:
    assert judged(answer) == (Outcome.FAIL, f"capital: {said}")


def test_the_limit_itself_is_still_good() -> None:
    assert judged(replace(GOOD, latency_ms=1000.0)) == (Outcome.PASS, "capital: 1000 ms <= 1000 ms")


def test_a_case_may_have_a_limit_of_its_own() -> None:
    strict, lenient = (CASE.model_copy(update={"max_latency_ms": limit}) for limit in (200.0, 5000.0))
    assert judged(GOOD, strict) == (Outcome.FAIL, "capital: latency 240 ms > limit 200 ms")
    assert judged(replace(GOOD, latency_ms=4000), lenient) == (Outcome.PASS, "capital: 4000 ms <= 5000 ms")


def test_letters_are_compared_without_their_case_in_every_script() -> None:
    case = SmokeCase(name="street", question="?", contains=("STRASSE", "ὈΔΌΣ"))
    assert judged(replace(GOOD, text="Straße, ὀδός"), case)[0] is Outcome.PASS


def test_the_gravest_problem_is_named_first() -> None:
    wrong = Answer(status=200, release_digest="f" * 64, prompt_sha256="", text="", latency_ms=9999)
    assert judged(wrong)[1] == (
        f"capital: answered by release ffffffffffff != {RELEASE.short}; capital: the answer is empty; "
        "capital: latency 9999 ms > limit 1000 ms"
    )


def test_every_case_has_a_check_and_every_failing_one_is_in_the_reason() -> None:
    cases = [SmokeCase(name=name, question="?") for name in ("one", "two", "three")]
    answers = [replace(GOOD, text=""), GOOD, replace(GOOD, status=500, error="HTTP 500")]
    verdict = judge_smoke(RELEASE, list(zip(cases, answers, strict=True)), START, END)
    assert verdict.reason == "one: the answer is empty; three: status 500 != 200 (HTTP 500)"
    assert [check.outcome for check in verdict.checks] == [Outcome.FAIL, Outcome.PASS, Outcome.FAIL]
    assert verdict.checks[1] == Check(
        monitor="smoke", outcome=Outcome.PASS, statement="two: 240 ms <= 1000 ms", value=240.4, limit=1000.0, n=1
    )
    assert (verdict.application, verdict.release_digest) == ("faq", RELEASE.digest)
    assert (verdict.window_start, verdict.window_end) == (START, END)


def test_no_answers_at_all_are_no_pass() -> None:
    assert judge_smoke(RELEASE, [], START, END).outcome is Outcome.INCONCLUSIVE


TEXT = "NEVER-SHOWN"


@given(
    status=st.sampled_from([0, 200, 200, 200, 404, 500]),
    digest=st.sampled_from([RELEASE.digest, RELEASE.digest, "f" * 64, ""]),
    prompt=st.sampled_from([RELEASE.prompt.sha256, "e" * 64, ""]),
    before=st.text(max_size=20),
    latency_ms=st.floats(0, 5000),
    contains=st.sampled_from([(), ("paris",)]),
)
def test_the_text_of_an_answer_is_never_said(
    *, status: int, digest: str, prompt: str, before: str, latency_ms: float, contains: tuple[str, ...]
) -> None:
    answer = Answer(
        status=status,
        release_digest=digest,
        prompt_sha256=prompt,
        text=f"{before}{TEXT}",
        latency_ms=latency_ms,
        error="",
    )
    case = SmokeCase(name="capital", question="a private question", contains=contains)
    said = repr(judge_smoke(RELEASE, [(case, answer)], START, END))
    assert TEXT not in said
    assert "private" not in said


# --- suite files ---


def test_a_suite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "smoke.yaml"
    path.write_text("cases:\n- {name: a, question: 東京, contains: [x], max_latency_ms: 50}\n", encoding="utf-8")
    case = SmokeCase(name="a", question="東京", contains=("x",), max_latency_ms=50)
    assert read_smoke_file(path) == SmokeSuite(cases=(case,))


def test_without_a_file_harmless_questions_are_asked() -> None:
    assert [case.name for case in SmokeSuite().cases] == ["greeting", "question", "unicode"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping of fields, not NoneType"),
        ("- a", "expected a mapping of fields, not list"),
        ("cases: []", "cases: Tuple should have at least 1 item after validation, not 0 (was [])"),
        ("cases: [{name: a}]", "cases.0: Value error, give either a question or the messages of a conversation"),
        ("cases: [{name: a, question: ''}]", "cases.0.question: String should have at least 1 character (was '')"),
        ("cases: [{name: a, question: b, contains: c}]", "cases.0.contains: Input should be a valid tuple (was 'c')"),
        (
            "cases: [{name: a, question: b, max_latency_ms: 0}]",
            "cases.0.max_latency_ms: Input should be greater than 0 (was 0)",
        ),
        (
            "cases: [{name: a, question: b, max_latency_ms: .nan}]",
            "cases.0.max_latency_ms: Input should be a finite number (was nan)",
        ),
        ("cases: [{name: a, question: b, equals: c}]", "cases.0.equals: Extra inputs are not permitted (was 'c')"),
        ("cases: [{name: a, question: b, json: 1}]", "cases.0.json: Input should be true or false, not int (was 1)"),
        (
            "cases: [{name: a, question: b, is_json: true}]",
            "cases.0.is_json: Extra inputs are not permitted (was True)",
        ),
        ("cases: [{name: a, question: b, contains: ['']}]", "cases.0.contains.0: String should have at least 1 char"),
        ("cases: [{name: a, question: b, regex: 'a('}]", "cases.0.regex: Value error, 'a(' is no regular expression"),
        (
            "cases: [{name: a, question: b, json_schema: {type: x}}]",
            "cases.0.json_schema: Value error, type is no JSON",
        ),
        (
            "cases: [{name: a, question: b, refusal: maybe}]",
            "cases.0.refusal: Input should be 'allowed', 'required' or",
        ),
        ("cases: [{name: a, question: b, similar_to: x}]", "cases.0.similar_to: Input should be a valid dictionary or"),
        ("cases: [{name: a, question: b, status: 99}]", "cases.0.status: Input should be greater than or equal to 100"),
        ("cases: [{name: a, question: b, max_cost_usd: -1}]", "cases.0.max_cost_usd: Input should be greater than or"),
        (
            "cases: [{name: a, question: b, status: 400, contains: [x], json: true}]",
            "cases.0: Value error, an answer of status 400 has no text to hold against json, contains",
        ),
        (
            "cases: [{name: a, messages: [{role: assistant, content: b}]}]",
            "cases.0: Value error, the last message is what is asked: its role is user, not assistant",
        ),
        (
            "cases: [{name: a, question: b}, {name: a, question: c}]",
            "file: Value error, 'a' is the name of more than one",
        ),
        ("concurrency: 0", "concurrency: Input should be greater than or equal to 1 (was 0)"),
        ("retries: 11", "retries: Input should be less than or equal to 10 (was 11)"),
        ("defaults: {question: b}", "defaults.question: Extra inputs are not permitted (was 'b') [allowed: contains, "),
        ("case: []", "case: Extra inputs are not permitted (was [])"),
        ("cases: [", "cannot be read: while parsing"),
        ("cases: 2026-13-45", "cannot be read: month must be in 1..12"),
        ("cases: !!python/object/apply:os.getcwd []", "cannot be read: could not determine a constructor for the tag"),
    ],
)
def test_a_bad_suite_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "smoke.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_smoke_file(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_a_suite_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.yaml: cannot be read: .*No such file"):
        read_smoke_file(tmp_path / "nope.yaml")
