"""The views of `fanlight show`: what each is called, says of itself, and takes. A table; what makes them is in pictures.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fanlight.cli import pictures
from fanlight.cli.kept import MEASURES
from fanlight.cli.options import Option
from fanlight.cli.sight import Picture, Sight


class View(NamedTuple):
    """What one word after `fanlight show` does."""

    make: Callable[[Sight], Picture]
    what: str
    about: str
    options: tuple[Option, ...] = ()
    settings: str = ""
    """"all", "filters", or none."""
    takes: str = "[PROMPT | --trace FILE]"

    def usage(self, name: str) -> str:
        """How it is called."""
        return f"fanlight show {name} {self.takes} [-o FILE] [OPTIONS]".replace("  ", " ")


TRACE = Option("trace", "a kept run, in place of a PROMPT; of branches, a folder too", metavar="FILE")
STEP = Option("step", "which step, from 0; negative: from the end", kind="int", metavar="N", default="0")
TOKEN = Option("token", "a text: what is looked at, or tracked", metavar="TEXT")
ROWS = Option("rows", "tokens to show", kind="int", metavar="N", default="12 to 25, by the picture")
DEPTH = Option("depth", "so many tokens deep", kind="int", metavar="N", default="fan 4, beams all")
BY = Option("by", "what colours the ribbon", choices=MEASURES, default="surprise")

VIEWS: dict[str, View] = {
    "mask": View(
        pictures.mask,
        "the causal mask beside the bidirectional and the sliding one, and what it does to scores",
        """\
Who may see whom: the causal mask (0, and a large negative number), the bidirectional one, a sliding window; and
scores -> masked scores -> softmax.

  fanlight show mask
  fanlight show mask "the cat sat on the mat" -o mask.png""",
        (
            Option("size", "positions, without a text", kind="int", metavar="N", default="8"),
            Option("window", "of the sliding mask", kind="int", metavar="N", default="3"),
        ),
    ),
    "attention": View(
        pictures.attention,
        "what looks where: all layers, one, or one head; or beside an encoder",
        """\
Where each position looks: thumbnails of the whole model, one layer's heads, or one head. With --encoder, a decoder
beside an encoder on the same text: what a word may see in each.

  fanlight show attention "the cat sat on the mat" -o all.png
  fanlight show attention "the cat sat on the mat" --layer 3 --head 0
  fanlight show attention "the cat sat on the mat" --encoder --token sat -o both.png
  fanlight generate PROMPT --trace run.safetensors --look attention; fanlight show attention --trace run.safetensors""",
        (
            Option("layer", "this layer's heads; negative: from the last", kind="int", metavar="N"),
            Option("head", "this head of it", kind="int", metavar="N"),
            Option("encoder", "an encoder's attention beside the decoder's", kind="flag"),
            Option("encoder_model", "which encoder (default: FANLIGHT_ENCODER, else MiniLM)", metavar="MODEL"),
            TOKEN,
        ),
        "all",
    ),
    "next": View(
        pictures.next_tokens,
        "the next token: probabilities, cumulative, and where each filter cuts",
        """\
The most probable next tokens after a text, or at a step of a kept run, with the cumulative line and the cut of each
filter.

  fanlight show next "The capital of France is" -o next.png
  fanlight show next "The capital of France is" --top-p 0.9 --min-p 0.1
  fanlight show next --trace run.safetensors --step 5""",
        (STEP, ROWS),
        "filters",
    ),
    "temperature": View(
        pictures.temperature,
        "one distribution at several temperatures, and entropy over all",
        """\
The same distribution at several temperatures side by side, and its entropy over all of them.

  fanlight show temperature "The capital of France is" -o temperature.png
  fanlight show temperature "Once upon a time" --temperatures 0.2,1,2 --rows 8""",
        (
            STEP,
            ROWS,
            Option("temperatures", "to show side by side", metavar="X,...", default="0.1,0.7,1.5"),
        ),
    ),
    "filters": View(
        pictures.filters,
        "which tokens each filter leaves, on a certain and on an uncertain step",
        """\
Which tokens top-k, top-p, min-p, typical and top-n-sigma leave, on the most certain and on the least certain step of
a text. Filters among the flags are shown in place of these.

  fanlight show filters "Once upon a time" -o filters.png
  fanlight show filters "Once upon a time" --top-k 40 --top-p 0.95""",
        (ROWS,),
        "all",
    ),
    "waterfall": View(
        pictures.waterfall,
        "one step through all processors",
        """\
One step's probabilities through all processors, one after the other; with --token, one token's way.

  fanlight show waterfall "Once upon a time" --do-sample --temperature 0.7 --top-p 0.9 -o waterfall.png
  fanlight show waterfall --trace run.safetensors --step 5 --token " not\"""",
        (STEP, ROWS, TOKEN),
        "all",
    ),
    "ribbon": View(
        pictures.ribbon,
        "the text, coloured by surprise, rank, entropy or margin",
        """\
The text, each token on the colour of its surprise, rank, entropy or margin, with other tokens beneath.

  fanlight show ribbon "Once upon a time"
  fanlight show ribbon "Once upon a time" --by entropy --alternatives 3 -o ribbon.png
  fanlight show ribbon --trace run.safetensors -o ribbon.html""",
        (
            BY,
            Option("alternatives", "other tokens beneath each", kind="int", metavar="N", default="0"),
        ),
        "all",
    ),
    "eos": View(
        pictures.eos,
        "the probability of ending, over the text",
        """\
The probability that the text ends, at each step.

  fanlight show eos "Once upon a time" -n 60 -o eos.png""",
        (),
        "all",
    ),
    "lens": View(
        pictures.lens,
        "what each layer would say, at each step",
        """\
The logit lens: what the final norm and the head make of the residual stream after each block, at each step.

  fanlight show lens "The capital of France is" -n 5 -o lens.png
  fanlight show lens "The capital of France is" --what rank""",
        (Option("what", "the colour", choices=("prob", "chosen", "rank", "entropy"), default="prob"),),
        "all",
    ),
    "contributions": View(
        pictures.contributions,
        "what each block added to the chosen token",
        """\
What attention and feed-forward network of each block added to the chosen token's logit: of one step, or of all.

  fanlight show contributions "The capital of France is" --step 0 -o contributions.png""",
        (STEP._replace(default="all"),),
        "all",
    ),
    "fan": View(
        pictures.fan,
        "the tree of likely continuations",
        """\
The likely continuations of a text, or from a step of a kept run on, as a tree with probabilities.

  fanlight show fan "The cat sat on the" -o fan.png
  fanlight show fan "The cat sat on the" --width 4 --depth 3 --min-prob 0.02""",
        (
            STEP,
            Option("width", "tokens after each", kind="int", metavar="N", default="3"),
            DEPTH,
            Option("min_prob", "what a token needs", kind="float", metavar="X", default="0.01"),
        ),
    ),
    "beams": View(
        pictures.beams,
        "the tree that a beam search went through",
        """\
The texts that a beam search kept, dropped and returned, as a tree.

  fanlight show beams "The cat sat on the" --num-beams 4 -n 8 -o beams.png""",
        (DEPTH,),
        "all",
    ),
    "branches": View(
        pictures.branches,
        "kept runs and their branches",
        """\
Kept runs and the branches that left them, as a tree: all of a folder, or those that one run belongs to.

  fanlight show branches --trace runs/ -o branches.png
  fanlight show branches --trace runs/run.safetensors""",
        takes="--trace FILE|FOLDER",
    ),
    "track": View(
        pictures.track,
        "the probability of a token or a text over the steps",
        """\
How likely a token, or a text, was at each step. Of a PROMPT, by the model; of a kept run, by what it recorded, and
with --exact by the model.

  fanlight show track "The weather today is" --token " not" -n 40 -o not.png
  fanlight show track --trace run.safetensors --token " not\"""",
        (TOKEN, Option("exact", "of a kept run: compute what it does not hold", kind="flag")),
        "all",
    ),
    "stack": View(
        pictures.stack,
        "the architecture",
        """\
What the model is made of.

  fanlight show stack -o stack.png""",
        takes="",
    ),
}
