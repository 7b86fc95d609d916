"""lm-evaluation-harness gives the same numbers by `fanlight` and by its own `hf` on the same weights, whatever the kind of task."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tomllib
from functools import partial
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import Registry, get_model
from lm_eval.tasks import TaskManager
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import fanlight
from fanlight.errors import OptionError, TokenizerError
from fanlight.evaluating.__main__ import main
from fanlight.evaluating.harness import FanlightLM
from fanlight.verifying import PROSE
from models import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence

BOS, MARK = "<s>", "<|turn|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' and m['content'] == 'no' %}"
    "{{ raise_exception('no system here') }}{% endif %}<|turn|>{{ m['role'] }} {{ m['content'] | trim }}"
    "{% if not loop.last or m['role'] != 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant {% endif %}{{ ending or '' }}"
)

CHOICES = [
    {"q": "the thing in there is", "c": ["e", "h", "z", "the"], "a": 2},  # one token each
    {"q": "the thing in there is ", "c": ["e", "hers", "in the"], "a": 0},  # a space that belongs to what follows
    {"q": f"{BOS}there", "c": ["in", "in the"], "a": 1},  # spells what a text begins with
    {"q": "in there the other " * 9, "c": ["there", "x" * 33], "a": 0},  # longer than the window
    {"q": "th", "c": ["e", "<|endoftext|>in", "e there"], "a": 1},
]
TEXTS = ["in the there is her", "the inner thing " * 7 + "xyz", "there she is in " * 31, "x", ""]
QUESTIONS = ["the other thing", "in", f"{BOS}there", "the other in there is the " * 11, "~}Hk"]


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2: no token of its own before a text."""
    return tiny.write_folder(tmp_path_factory.mktemp("lm_eval") / "gpt2", tiny.gpt2())


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama whose tokenizer puts <s> before a text, and has a chat template."""
    sizes = {"vocab_size": tiny.N_VOCAB + 2, "bos_token_id": tiny.N_VOCAB, "eos_token_id": tiny.EOS}
    folder = tiny.write_folder(tmp_path_factory.mktemp("lm_eval") / "llama", tiny.llama(**sizes))
    vocabulary = {token: i for i, token in enumerate(tiny.TOKENS)}
    made = Tokenizer(models.BPE(vocabulary, [tuple(merge.split()) for merge in tiny.MERGES]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in ("<|endoftext|>", BOS, MARK)])
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tiny.N_VOCAB)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token="<|endoftext|>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks pip for all that is installed, for every result: seconds each time."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


both_kinds = pytest.mark.parametrize("folder", ["without_bos", "with_bos"], indirect=True)


# -- tasks ------------------------------------------------------------------------------------------------------------


def write_task(folder: Path, name: str, rows: Sequence[dict[str, Any]], **settings: Any) -> None:
    """A task of local files: its YAML is JSON."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
    own = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(json.dumps({**own, **settings}))


def metrics(*names: str) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def write_tasks(folder: Path, choices: Any, texts: Sequence[str], questions: Sequence[str], until: list[str]) -> Path:
    as_choice = {"output_type": "multiple_choice", "doc_to_choice": "{{c}}", "doc_to_target": "{{a}}"}
    write_task(folder, "choices", choices, doc_to_text="{{q}}", metric_list=metrics("acc", "acc_norm"), **as_choice)
    write_task(folder, "endings", choices, doc_to_text="", metric_list=metrics("acc"), target_delimiter="", **as_choice)
    rolling = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    as_text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    write_task(folder, "texts", [{"text": text} for text in texts], metric_list=rolling, **as_text)
    as_answer = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
    rows = [{"q": question, "a": "e"} for question in questions]
    wish = {"generation_kwargs": {"until": until, "max_gen_toks": 21, "do_sample": False}}
    write_task(folder, "answers", rows, metric_list=metrics("exact_match"), **as_answer, **wish)
    prefixed = {**as_answer, "gen_prefix": "it is "}
    write_task(folder, "begun", rows, metric_list=metrics("exact_match"), **prefixed, **wish)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"), CHOICES, TEXTS, QUESTIONS, ["x}", "E", "kL"])


ALL = ("choices", "endings", "texts", "answers")


def evaluated(
    tasks: Path, model: Any, names: Sequence[str] = ALL, arguments: dict[str, Any] | None = None, **options: Any
) -> Any:
    """What the harness finds: metrics by task, and the responses to all requests."""
    known = TaskManager(include_path=str(tasks), include_defaults=False)
    options = {"device": "cpu", "batch_size": 1, **options} if isinstance(model, str) else options
    found = simple_evaluate(model, arguments, list(names), task_manager=known, bootstrap_iters=0, **options)
    assert found is not None
    return found


def numbers(found: Any) -> dict[str, dict[str, float]]:
    return {
        task: {name: float(value) for name, value in of_task.items() if "," in name and "stderr" not in name}
        for task, of_task in found["results"].items()
    }


def responses(found: Any, task: str) -> list[Any]:
    return [response[0] for sample in found["samples"][task] for response in sample["resps"]]


def assert_same(ours: Any, theirs: Any, names: Sequence[str] = ALL) -> None:
    for name in names:
        mine, others = responses(ours, name), responses(theirs, name)
        assert len(mine) == len(others) > 0
        for one, other in zip(mine, others, strict=True):
            if isinstance(other, str):
                assert one == other
            elif isinstance(other, tuple | list):
                assert isclose(float(one[0]), float(other[0]), rel_tol=2e-5, abs_tol=1e-4)
                assert str(one[1]) == str(other[1])
            else:
                assert isclose(float(one), float(other), rel_tol=2e-5, abs_tol=1e-4)
        for metric, value in numbers(theirs)[name].items():
            assert numbers(ours)[name][metric] == pytest.approx(value, rel=1e-4)


def asking(task: str, *arguments: Any) -> list[Instance]:
    return [Instance(task, {}, one, i, ("a task", i, 1)) for i, one in enumerate(arguments)]


# -- the same numbers -------------------------------------------------------------------------------------------------


@both_kinds
def test_every_kind_of_task_gives_the_same_as_hf(folder: Path, tasks: Path) -> None:
    given = {"pretrained": str(folder)}
    ours = evaluated(tasks, "fanlight", arguments=given, batch_size=5)
    assert_same(ours, evaluated(tasks, "hf", arguments=given))
    assert len(set(responses(ours, "answers"))) == len(QUESTIONS)


def test_examples_before_the_question_and_a_short_window_give_the_same_as_hf(without_bos: Path, tasks: Path) -> None:
    given = {"pretrained": str(without_bos), "max_length": 61}
    options = {"num_fewshot": 2, "names": ("choices", "texts", "answers")}
    ours = evaluated(tasks, "fanlight", arguments=given, batch_size="auto", **options)
    assert_same(ours, evaluated(tasks, "hf", arguments=given, **options), options["names"])


@pytest.mark.parametrize("arguments", [{"add_bos_token": False}, {"prefix_token_id": 5}])
def test_what_stands_before_a_text_can_be_said_as_to_hf(arguments: dict[str, Any], with_bos: Path, tasks: Path) -> None:
    given, names = {"pretrained": str(with_bos), **arguments}, ("choices", "endings", "texts")
    ours = evaluated(tasks, "fanlight", names, given)
    assert_same(ours, evaluated(tasks, "hf", names, given), names)
    assert numbers(ours) != numbers(evaluated(tasks, "fanlight", names, {"pretrained": str(with_bos)}))


def test_a_chat_with_examples_as_turns_and_a_begun_answer_gives_the_same_as_hf(with_bos: Path, tasks: Path) -> None:
    given, names = {"pretrained": str(with_bos)}, ("choices", "answers", "begun")
    options = {"apply_chat_template": True, "system_instruction": "be the one", "num_fewshot": 1}
    ours = evaluated(tasks, "fanlight", names, given, **options)
    theirs = evaluated(tasks, "hf", names, given, **options)
    assert_same(ours, theirs, names)
    prompts = [[sample["arguments"] for sample in found["samples"]["begun"]] for found in (ours, theirs)]
    assert prompts[0] == prompts[1]
    assert all(prompt[0][0].endswith("assistant it is") for prompt in prompts[0])


def test_results_do_not_depend_on_the_batch(with_bos: Path, tasks: Path) -> None:
    given = {"pretrained": str(with_bos)}
    one, seven = (evaluated(tasks, "fanlight", arguments=given, batch_size=n) for n in (1, 7))
    assert numbers(one) == numbers(seven)
    assert all(responses(one, name) == responses(seven, name) for name in ALL)


def test_the_default_model_gives_the_same_as_hf_on_its_exported_weights(tmp_path: Path) -> None:
    rows = [
        {"q": "The capital of France is", "c": ["Paris", "London"], "a": 0},
        {"q": "Bees make honey. Cows make", "c": ["milk", "stones and sand"], "a": 0},
    ]
    text, names = PROSE.read_text(encoding="utf-8")[:240], ("choices", "texts", "answers")
    tasks = write_tasks(tmp_path, rows, [text], ["One, two, three,"], ["\n", ", seven"])
    fanlight.export(None, tmp_path / "folder")
    given = {"pretrained": str(tmp_path / "folder")}
    ours, stored = evaluated(tasks, "fanlight", names, given), evaluated(tasks, "fanlight", names, {})
    theirs = evaluated(tasks, "hf", names, {**given, "dtype": "float32"})
    assert_same(ours, theirs, names)
    assert responses(ours, "answers") == [" four, five, six"]
    as_stored, exact = numbers(stored), numbers(theirs)  # as stored, the kernels round states to 8 bits
    assert as_stored["texts"]["bits_per_byte,none"] == pytest.approx(exact["texts"]["bits_per_byte,none"], rel=0.02)
    assert as_stored["choices"]["acc,none"] == exact["choices"]["acc,none"] == 1


# -- chats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("last", ["it is", "it is ", " it  is the"])
def test_a_chat_is_written_as_transformers_writes_it(goes_on: bool, last: str, with_bos: Path) -> None:
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "it is"}]
    messages += [{"role": "assistant", "content": last}] * goes_on
    model = FanlightLM(with_bos, chat_template_args={"ending": "!"})
    theirs = AutoTokenizer.from_pretrained(with_bos).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on, ending="!"
    )
    assert model.apply_chat_template(messages, add_generation_prompt=not goes_on) == theirs
    assert model.tok_encode(theirs) == AutoTokenizer.from_pretrained(with_bos).encode(theirs, add_special_tokens=False)


def test_a_template_that_refuses_the_system_message_goes_without(with_bos: Path) -> None:
    user = {"role": "user", "content": "it is"}
    model = FanlightLM(with_bos)
    assert model.apply_chat_template([{"role": "system", "content": "no"}, user]) == model.apply_chat_template([user])
    with pytest.raises(TokenizerError, match="expected a role"):
        model.apply_chat_template([{"role": "", "content": "it is"}])


def test_the_template_and_its_name_can_be_asked_for(with_bos: Path, without_bos: Path) -> None:
    model, without = FanlightLM(with_bos), FanlightLM(without_bos)
    assert model.chat_template(True) == model.chat_template("default") == TEMPLATE
    assert model.chat_template(False) is None
    names = {model.tokenizer_name, without.tokenizer_name}
    names.add(FanlightLM(with_bos, chat_template_args={"ending": "."}).tokenizer_name)
    assert len(names) == 3
    assert not any("/" in name for name in names)
    with pytest.raises(OptionError, match="'other' is not a template's name"):
        model.chat_template("other")
    with pytest.raises(OptionError, match="gpt2 has no chat template; leave --apply_chat_template out"):
        without.chat_template(True)


# -- texts ------------------------------------------------------------------------------------------------------------


def test_drawn_answers_differ_and_come_again(without_bos: Path) -> None:
    wish = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 9, "until": []}
    twice = [("the", wish), ("the", wish), ("in", wish)]
    model = FanlightLM(without_bos, seed=3)
    first, second, other = model.generate_until(asking("generate_until", *twice))
    assert len({first, second, other}) == 3
    assert model.generate_until(asking("generate_until", *twice[::-1])) == [other, first, second]
    assert model.generate_until(asking("generate_until", ("the", {**wish, "seed": 3}))) != [
        first
    ]  # told by its settings too
    assert FanlightLM(without_bos, seed=4).generate_until(asking("generate_until", *twice)) != [first, second, other]


def test_a_text_counts_from_behind_its_thoughts(without_bos: Path) -> None:
    wish = ("the other thing", {"max_gen_toks": 33, "until": []})
    (whole,) = FanlightLM(without_bos).generate_until(asking("generate_until", wish))
    middle = whole[len(whole) // 2]
    (by_text,) = FanlightLM(without_bos, think_end_token=middle).generate_until(asking("generate_until", wish))
    assert by_text == whole.rpartition(middle)[2].lstrip()
    model = FanlightLM(without_bos)
    ids = model.model.generate(model.tok_encode(wish[0]), max_new_tokens=33).ids
    token = ids[len(ids) // 2]
    (by_id,) = FanlightLM(without_bos, think_end_token=token).generate_until(asking("generate_until", wish))
    assert by_id == model.tok_decode(ids[len(ids) - ids[::-1].index(token) :]).lstrip()


def test_a_request_without_limits_has_those_of_the_arguments(without_bos: Path) -> None:
    (text,) = FanlightLM(without_bos, max_gen_toks=5).generate_until(asking("generate_until", ("the", {})))
    model = fanlight.load(without_bos)
    assert text == model.generate("the", max_new_tokens=5).text


def test_settings_without_effect_are_said(without_bos: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = "lm_eval.models.fanlight"
    wish = {"do_sample": False, "top_p": 0.5, "max_gen_toks": 2}
    with caplog.at_level("WARNING", logger):
        import logging

        logging.getLogger("lm_eval").propagate = True  # the harness's own handler would have it
        FanlightLM(without_bos).generate_until(asking("generate_until", ("the", wish), ("in", wish)))
    said = [record.getMessage() for record in caplog.records if record.name == logger]
    assert len(said) == 1
    assert said[0].startswith("top_p has no effect")


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        ("generate_until", ("the", {"max_gen_toks": 131}), "max_gen_toks is 131, the window holds 131"),
        ("generate_until", ("the", {"stop": ["x"]}), "generation_kwargs: stop cannot be had"),
        ("generate_until", ("the", {"best": 1}), "generation_kwargs: unknown option 'best'"),
        ("loglikelihood", ("the", ""), "nothing is to come after 'the'"),
        ("loglikelihood", ("the", "x" * 132), "132 tokens are to be scored, the window holds 131"),
    ],
)
def test_a_request_that_cannot_be_is_an_error_before_anything_is_computed(
    kind: str, request_: tuple[Any, ...], message: str, without_bos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FanlightLM(without_bos)
    monkeypatch.setattr(fanlight.Model, "generate_each", None)
    good: tuple[Any, ...] = ("the", {"max_gen_toks": 3}) if kind == "generate_until" else ("the", "in")
    with pytest.raises(ValueError, match=message):
        getattr(model, kind)(asking(kind, good, request_))


def test_arguments_that_do_not_fit_the_model_are_refused(without_bos: Path) -> None:
    with pytest.raises(OptionError, match="max_length is 132, the window of gpt2 holds 131"):
        FanlightLM(without_bos, max_length=132)
    with pytest.raises(OptionError, match="unknown argument 'n_ctxt'; did you mean 'n_ctx'"):
        FanlightLM(without_bos, n_ctxt=7)
    with pytest.raises(OptionError, match="n_ctx, threads: the model is loaded already; say it to"):
        FanlightLM(fanlight.load(without_bos), n_ctx=7, threads=1)
    thinking = FanlightLM(without_bos, enable_thinking=True, think_end_token="x")
    with pytest.raises(OptionError, match="enable_thinking makes no sense with likelihoods"):
        thinking.loglikelihood(asking("loglikelihood", ("a", "b")))


# -- the harness ------------------------------------------------------------------------------------------------------


def test_answers_that_the_harness_keeps_are_not_computed_again(
    without_bos: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kept = FanlightLM(without_bos), str(tmp_path / "kept")
    first = evaluated(tasks, model, use_cache=kept)
    monkeypatch.setattr(fanlight.Model, "generate_each", None)
    assert numbers(evaluated(tasks, model, use_cache=kept)) == numbers(first)


def test_the_harness_finds_the_model_by_name_and_by_entry_point() -> None:
    assert get_model("fanlight") is FanlightLM
    assert get_model("hf") is not None
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    group = "lm_eval.models"  # read by releases of the harness after 0.4.13
    ((name, value),) = project["entry-points"][group].items()
    known: Registry[Any] = Registry("model")
    known.register(name, target=importlib.metadata.EntryPoint(name, value, group))
    assert known.get("fanlight") is FanlightLM


@pytest.fixture
def quick_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command without a look through the harness's own tasks, which takes most of a minute."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


@pytest.mark.usefixtures("quick_command")
def test_the_command_evaluates_and_writes_its_results(
    without_bos: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"pretrained": str(without_bos)}
    words = ["--model", "fanlight", "--model_args", f"pretrained={without_bos},threads=1", "--tasks", "texts,choices"]
    words += ["--include_path", str(tasks), "--batch_size", "auto", "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *words])
    assert main() == 0
    assert "word_perplexity" in capsys.readouterr().out
    (file,) = (tmp_path / "out").rglob("results_*.json")
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["config"]["fanlight_version"] == fanlight.__version__
    assert written["config"]["model_num_parameters"] == fanlight.load(without_bos).describe().n_parameters
    found = numbers(evaluated(tasks, "fanlight", ("texts",), given))["texts"]
    assert written["results"]["texts"]["bits_per_byte,none"] == found["bits_per_byte,none"]


@pytest.mark.usefixtures("quick_command")
def test_the_command_says_in_a_line_what_is_wrong(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "fanlight", "--model_args", "pretrained=x,dtype=bfloat16", "--tasks", "texts"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *words, "--include_path", str(tasks)])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: model_args: dtype='bfloat16' cannot be had here")
