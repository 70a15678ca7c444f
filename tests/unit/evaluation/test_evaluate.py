"""A whole evaluation on tiny models: conditions, attacks, verdicts, and the report."""

import copy
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from retainfirst import evaluation as ev
from retainfirst.data import collate, encode_rows
from retainfirst.errors import RetainFirstError
from retainfirst.evaluation import table_headings, table_lines, table_markdown
from retainfirst.objectives import nll
from tiny import tiny_llama, tiny_tokenizer

FORGET = [
    {"question": f"who is {i}", "answer": f"the {'abcdef'[i]} one", "perturbed_answer": ["no", "on the"],
     "paraphrased_question": f"tell me of {i}", "translated_question": f"wer ist {i}", "translated_answer": f"die {i}"}
    for i in range(6)
]  # fmt: skip
RETAIN = [{"question": f"what is {i}", "answer": f"no {'xyzuv'[i]}"} for i in range(5)]
HELD_OUT = [{"question": f"who was {i}", "answer": f"a {i}"} for i in range(4)]
SIZES = ev.Measuring(max_new_tokens=8, batch_size=4)


def make_sets(tokenizer, **rows):
    return {name: ev.make_set(name, some, tokenizer, 200) for name, some in rows.items()}


@pytest.fixture(scope="module")
def knows():
    """A model that knows the forget and the retain rows by heart."""
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    sets = make_sets(tokenizer, forget=FORGET, retain=RETAIN)
    batch = collate([one.examples[i] for one in sets.values() for i in range(len(one))], 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        nll(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_conditions_and_metrics(knows, llama, tokenizer):
    sets = make_sets(tokenizer, forget=FORGET, retain=RETAIN, held_out=HELD_OUT)
    seen = []
    attacks = [
        *ev.by_quantization(4, sets),
        *ev.by_relearning(2, sets, tokenizer),
        *ev.by_prompts(sets, tokenizer, 200),
    ]
    before = {name: one.detach().clone() for name, one in llama.named_parameters()}
    found = ev.evaluate(
        llama, tokenizer, sets, before=knows, attacks=attacks, how=SIZES, progress=lambda *now: seen.append(now)
    )
    assert table_headings(found) == [
        "before", "after", "4 bits, channels", "4 bits, groups of 64", "relearned, 2 steps", "tuned on retain rows, 2 steps",
        "prompt templates", "paraphrased question", "other language", "half of the answer given",
    ]  # fmt: skip
    assert seen[-1][1] == pytest.approx(seen[-1][2], abs=6), "the bar ends, up to empty answers, which no judge reads"
    assert all(torch.equal(one, before[name]) for name, one in llama.named_parameters())
    first, after = (one.measured.estimates for one in found.conditions[:2])
    assert set(first["forget"]) == set(ev.METRICS)
    assert first["forget"]["matches"].value == first["retain"]["rouge_l_recall"].value == 1
    assert after["forget"]["probability"].value < 0.1
    assert first["held_out"]["probability"].value < 0.9
    assert {(one.metric, one.set) for one in found.skipped} >= {("truth_ratio", "retain"), ("truth_ratio", "held_out")}
    relearned = found.named("relearned, 2 steps")
    assert len(relearned.forget_rows) == relearned.measured.estimates["forget"]["probability"].n == 3
    text = json.dumps(ev.report_data(found, {"model": "m"}), default=str)
    assert json.loads(text)["conditions"][0]["metrics"]["forget"]["matches"]["rows"] == [1.0] * 6


def test_the_highest_of_the_templates_counts(knows, tokenizer):
    sets = make_sets(tokenizer, forget=FORGET)
    (attack, *_) = ev.by_prompts(sets, tokenizer, 200)
    assert len(attack.variants) == len(ev.TEMPLATES)
    found = attack.measure(knows, tokenizer, SIZES)
    each = [ev.measure(knows, tokenizer, variant, SIZES) for variant in attack.variants]
    for metric in ("probability", "rouge_l_recall", "extraction_strength"):
        rows = [one.estimates["forget"][metric].rows for one in each]
        assert found.estimates["forget"][metric].rows == tuple(map(max, zip(*rows, strict=True)))
    asked = [one["forget"].rows[0]["question"] for one in attack.variants]
    assert asked[0] == "Please answer this question: who is 0"
    assert len(set(asked)) == len(asked)


def test_questions_with_braces_are_asked(tokenizer):
    one = ev.make_set("forget", [{"question": "what is {x}", "answer": "the"}], tokenizer, 200)
    assert (
        ev.reworded(one, tokenizer, 200)["prompt templates"][1].rows[0]["question"]
        == "what is {x} Answer in one sentence."
    )


def test_half_of_the_answer_is_given(knows, tokenizer):
    sets = make_sets(tokenizer, forget=[*FORGET, {"text": "the"}])
    begun, numbers = ev.answers_begun(sets["forget"])
    assert numbers == tuple(range(6)), "the last row has one labelled token at most"
    for i in numbers:
        whole, half = ([x for x in one.examples[i]["labels"] if x != -100] for one in (sets["forget"], begun))
        assert half == whole[len(whole) // 2 :]
    said = ev.generate_answers(knows, tokenizer, begun.examples, max_new_tokens=8)
    assert ev.matches(said) == [1.0] * 6


@pytest.fixture(scope="module")
def evaluation(knows):
    tokenizer = tiny_tokenizer()
    sets = make_sets(tokenizer, forget=FORGET, retain=RETAIN, held_out=HELD_OUT)
    attacks = [*ev.by_quantization(8, sets), *ev.by_relearning(150, sets, tokenizer, learning_rate=1e-2)]
    return ev.evaluate(tiny_llama(), tokenizer, sets, before=knows, attacks=attacks, how=SIZES)


def test_verdicts_on_a_model_that_lost_everything(evaluation):
    found = {one.question: one for one in ev.verdicts(evaluation)}
    assert found["Is it forgotten?"].answer == "yes"
    assert "0 of 6 greedy answers hold the right one (6 before)" in found["Is it forgotten?"].text
    assert found["Is the rest retained?"].answer == "no"
    assert found["Does it come back by quantising?"].answer == "not seen"
    # Half of the rows teach "the ... one", two words of three of the others.
    assert found["Does it come back by fine-tuning?"].answer == "yes"
    assert "relearned, 150 steps" in found["Does it come back by fine-tuning?"].text


def test_an_attack_that_breaks_the_model_shows_nothing(evaluation):
    found = copy.deepcopy(evaluation)
    for one in found.conditions:
        if one.kind in ("after", "quantise"):
            estimates = one.measured.estimates["retain"]
            estimates["rouge_l_recall"] = replace(estimates["rouge_l_recall"], value=1.0)
    [attacked] = [one for one in found.conditions if one.name == "8 bits, channels"]
    for left, answer in ((0.81, "not seen"), (0.79, "not certain")):
        estimates = attacked.measured.estimates["retain"]
        estimates["rouge_l_recall"] = replace(estimates["rouge_l_recall"], value=left)
        [verdict] = [one for one in ev.verdicts(found) if one.question == "Does it come back by quantising?"]
        assert verdict.answer == answer
        assert ("Under 8 bits, channels the retain rows are lost too" in verdict.text) == (left < 0.8)


def test_recovered_is_the_share_of_what_was_lost(evaluation):
    before, after, relearned = (evaluation.named(name) for name in ("before", "after", "relearned, 150 steps"))
    rows = relearned.forget_rows
    value = lambda one, some: sum(one.measured.estimates["forget"]["rouge_l_recall"].rows[i] for i in some) / len(rows)  # noqa: E731
    was, now, then = value(before, rows), value(after, rows), value(relearned, range(len(rows)))
    assert ev.recovered(relearned, after, before, "rouge_l_recall") == pytest.approx((then - now) / (was - now))
    assert math.isnan(ev.recovered(after, before, before, "rouge_l_recall"))


def test_nothing_is_said_about_a_model_before_that_knew_nothing(llama, tokenizer):
    sets = make_sets(tokenizer, forget=FORGET, retain=RETAIN)
    found = ev.evaluate(llama, tokenizer, sets, before=tiny_llama(seed=3), how=SIZES)
    assert ev.verdicts(found)[0].answer == "not known"
    assert "did not know it" in ev.verdicts(found)[0].text


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.outside, self.cells, self.text = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.cells += tag == "td"
        self.outside += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_everything_and_needs_no_other_file(evaluation, tmp_path):
    evaluation = copy.deepcopy(evaluation)
    evaluation.conditions[1].measured.answers["forget"][0] = ev.Answer("who is 0", "the a one", "<b>odd</b>", (1,))
    ev.write_report(evaluation, {"model": "some/model", "model sha256": "abc"}, tmp_path)
    text = (tmp_path / "evaluation.html").read_text()
    page = Page(text)
    assert page.outside == []
    assert "<b>odd" not in text
    shown = " ".join(page.text)
    for one in ev.verdicts(evaluation):
        assert one.text in shown
    for line in table_lines(evaluation):
        assert all(cell in shown for cell in line.cells(intervals=True))
    assert "<svg" in text
    assert "some/model" in shown
    assert "Not measured" in shown
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert data["run"]["model sha256"] == "abc"
    assert [one["question"] for one in data["verdicts"]] == [one.question for one in ev.verdicts(evaluation)]


def test_the_table_in_markdown(evaluation):
    head, rule, *rows = table_markdown(evaluation).splitlines()
    assert head.startswith("| set | metric | before | after | 8 bits, channels |")
    assert rule.count("---") == head.count("|") - 1
    assert any(row.startswith("| held out | probability of the answer | ") for row in rows)


def test_rows_of_text_are_measured_as_far_as_they_go(llama, tokenizer):
    sets = make_sets(tokenizer, forget=[{"text": f"the {i} one"} for i in range(3)], held_out=HELD_OUT)
    found = ev.evaluate(llama, tokenizer, sets, how=SIZES)
    assert "rouge_l_recall" not in found.conditions[0].measured.estimates["forget"]
    reasons = {one.metric: one.reason for one in found.skipped if one.set == "forget"}
    assert "no prompt to answer" in reasons["rouge_l_recall"]
    assert "the form text, the held-out rows answer" in reasons["mia_loss"]
    assert ev.verdicts(found)[0].text.startswith("The answer probability of the forget rows is")


def test_intervals_hold_the_value_and_narrow_with_rows():
    from retainfirst.evaluation._estimates import estimate, paired_interval

    few, many = estimate([0.0, 1.0] * 5), estimate([0.0, 1.0] * 100)
    for one in (few, many):
        assert one.low < one.value == 0.5 < one.high
    assert many.high - many.low < few.high - few.low
    assert estimate([1.0]).low is None
    assert estimate([math.nan, 0.5, 0.7]).n == 2
    assert paired_interval([1.0, 2.0, math.nan], [0.5, 1.5, 3.0]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("rows", "text"),
    [([{"question": "who", "answer": "x" * 200}], "none of 1 rows has a token"), ([{"q": "who"}], "keys of no form")],
)
def test_bad_sets_are_refused(tokenizer, rows, text):
    with pytest.raises(RetainFirstError, match=text):
        ev.make_set("forget", rows if "q" in rows[0] else [{"question": "w" * 90, "answer": "x"}], tokenizer, 64)


def test_an_evaluation_needs_forget_rows(llama, tokenizer):
    with pytest.raises(RetainFirstError, match="needs the forget set"):
        ev.evaluate(llama, tokenizer, make_sets(tokenizer, retain=RETAIN))


def test_relearning_on_unrelated_rows(llama, tokenizer):
    sets = make_sets(tokenizer, forget=FORGET)
    unrelated = encode_rows([{"question": "one and one", "answer": "two"}], tokenizer, 200)
    half, other = ev.by_relearning(3, sets, tokenizer, unrelated=unrelated, learning_rate=1e-2)
    assert (half.name, other.name) == ("relearned, 3 steps", "tuned on unrelated rows, 3 steps")
    with other.change(llama, None) as model:
        changed = ev.probability(ev.score_answers(model, sets["forget"].examples, 0))
    with ev.relearned(llama, [unrelated[0]], 0, steps=3, learning_rate=1e-2) as model:
        assert ev.probability(ev.score_answers(model, sets["forget"].examples, 0)) == changed
    found = other.measure(llama, tokenizer, SIZES)
    assert found.estimates["forget"]["probability"].rows == pytest.approx(changed, rel=1e-4)
    assert changed != ev.probability(ev.score_answers(llama, sets["forget"].examples, 0))


@pytest.mark.parametrize("broken", ["before", "after"])
def test_a_model_that_gives_nan_has_not_forgotten(llama, tokenizer, broken):
    models = {"before": tiny_llama(seed=1), "after": llama}
    with torch.no_grad():
        models[broken].lm_head.weight.fill_(math.nan)
    which = "The model before" if broken == "before" else "The model"
    with pytest.raises(RetainFirstError, match=f"{which} gives NaN for 6 of 6 forget rows"):
        ev.evaluate(llama, tokenizer, make_sets(tokenizer, forget=FORGET), before=models["before"], how=SIZES)


def test_answers_that_rouge_cannot_read_are_judged_by_their_probability(llama, tokenizer):
    """The tiny tokenizer knows no Cyrillic either; Latin answers among them keep their value."""
    rows = [{"question": f"who {i}", "answer": "Москва"} for i in range(2)]
    sets = make_sets(tokenizer, forget=rows, retain=[*rows, *RETAIN])
    attacks = ev.by_prompts(sets, tokenizer, 200)
    found = ev.evaluate(llama, tokenizer, sets, attacks=attacks, before=tiny_llama(seed=1), how=SIZES)
    estimates = found.named("after").measured.estimates
    assert "rouge_l_recall" not in estimates["forget"]
    assert estimates["retain"]["rouge_l_recall"].n == len(RETAIN)
    reasons = {one.metric: one.reason for one in found.skipped if one.set == "forget"}
    assert reasons["rouge_l_recall"] == "no answer has one of the letters a-z or a digit"
    assert reasons["matches"] == "the tokenizer leaves no text of the answers"
    assert "answer probability" in ev.verdicts(found)[0].text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"perturbed_answer": [1, 2]},
            r"forget, row 2: 'perturbed_answer' must be a text or a list of texts.*\[1, 2\]",
        ),
        ({"perturbed_answer": ["no", " "]}, "row 2: 'perturbed_answer' must be"),
        ({"perturbed_answer": {"no": 1}}, "row 2: 'perturbed_answer' must be"),
        ({"perturbed_answer": 3}, "row 2: 'perturbed_answer' must be"),
        ({"perturbed_answer": "no", "paraphrased_answer": 3}, "row 2: 'paraphrased_answer' must be a text"),
    ],
)
def test_wrong_answers_that_are_no_texts_are_named(tokenizer, keys, text):
    rows = [{"question": "who", "answer": "a", "perturbed_answer": "no"}, {"question": "who", "answer": "b", **keys}]
    with pytest.raises(RetainFirstError, match=text):
        make_sets(tokenizer, forget=rows)


def test_forget_rows_are_not_unrelated(tokenizer):
    rows = encode_rows([HELD_OUT[0], FORGET[2]], tokenizer, 200, name="other.jsonl")
    with pytest.raises(
        RetainFirstError, match=r"other.jsonl: 1 of 2 rows are forget rows, so that they are not unrelated"
    ):
        ev.by_relearning(1, make_sets(tokenizer, forget=FORGET), tokenizer, unrelated=rows)


@pytest.mark.parametrize(
    ("steps", "rate", "text"), [(0, 1e-3, "steps must be at least 1"), (1, math.inf, "above 0, found inf")]
)
def test_bad_relearning_is_refused_before_anything_is_measured(tokenizer, steps, rate, text):
    with pytest.raises(RetainFirstError, match=text):
        ev.by_relearning(steps, make_sets(tokenizer, forget=FORGET), tokenizer, learning_rate=rate)
