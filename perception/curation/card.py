"""The README.md of a filtered set: scores, rejected samples, and how to load the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception.generation.publishing.catalogue import Record
from perception.generation.publishing.dataset_card import class_table, generated_sections, mmseg_config, render_card

_FILES = """| path | what |
|---|---|
| `labels_filtered/ID_labelTrainIds.png` | label maps with 255 where the image does not show them |
| `accepted.txt`, `rejected.txt` | ids of the samples at or above the least score, and below it |
| `scores.jsonl` | one line per sample: files, score, losses, what was ignored |
| `class_loss.json` | mean loss of every class on real images, for the next `perception score --class-loss` |
| `component_recall.json` | recall of objects by class and size, in the samples and in the real images |
| `prompts.json` | domains, templates, class names and lengths of the prompts (of a generated set) |
| `per_label.json` | samples that each label map should get by its hardness, for `perception generate --per-label` |
| `sample_class_stats.json`, `sample_class_stats_dict.json`, `samples_with_class.json` | pixels per class of the \
accepted samples, for rare class sampling |
| `manifest.jsonl`, `job.json`, `reference/` | the jobs, one line per image |

Images and original label maps stay where they are, in `{folder}`; keep both folders side by side."""


@dataclass(frozen=True)
class FilterFacts:
    """What a score job did."""

    folder: str  # of the scored set, seen from the filtered one
    model: str  # folder and digest of the head
    reference: str  # real images that the losses come from, in words; "": nothing was filtered
    alpha: float
    metric: str
    min_score: float
    unjudged: Sequence[str]  # classes that the real images do not show, so that all of their pixels are kept
    failed: int  # samples that could not be read

    @property
    def filtered(self) -> bool:
        """Whether there are filtered label maps."""
        return bool(self.reference)


def filter_card(
    scores: Sequence[Record],  # of every scored sample, with `accepted`
    generated: Sequence[Record],  # manifest lines of the accepted samples; () for a set that was not generated
    names: Sequence[str],  # class names by id
    facts: FilterFacts,
    places: Mapping[str, str],  # arguments of `mmseg_config`: images, labels; and image_end, labels_end
    recall: str,  # tables, as plain text
) -> str:
    """Markdown; a function of its arguments alone, so that the same job writes the same card."""
    accepted = [score for score in scores if score["accepted"]]
    ends = (places["image_end"], places["labels_end"])
    sections = {
        "Files": _FILES.format(folder=facts.folder),
        "Filter": _filter(scores, len(accepted), facts),
        "Use with mmsegmentation": mmseg_config(names, places["images"], places["labels"], ends, "accepted.txt"),
        "Objects by size": f"```text\n{recall}\n```",
        "Classes of the accepted samples": class_table(accepted, names),
        **(generated_sections(generated, names) if generated else {}),
    }
    head = (
        f"# Filtered data set\n\n{len(accepted)} of {len(scores)} samples of `{facts.folder}`"
        + (f"; {facts.failed} could not be scored (`manifest.jsonl` says why)" if facts.failed else "")
        + ". Made with `perception score` (loss filter of FreeMask, NeurIPS 2023)."
    )
    return render_card(head, sections)


def _filter(scores: Sequence[Record], accepted: int, facts: FilterFacts) -> str:
    """The facts as a list."""

    def mean(key: str) -> float:
        return sum(score[key] for score in scores) / len(scores)

    rows = [
        f"head: {facts.model}",
        f"mean over the samples: mIoU of the present classes {mean('mean_iou'):.4f}, "
        f"pixel accuracy {mean('pixel_accuracy'):.4f}, cross-entropy {mean('loss'):.4f} nats",
        f"rejected for a {facts.metric} below {facts.min_score:g}: {len(scores) - accepted} samples",
    ]
    if facts.filtered:
        rows += [
            f"a pixel is ignored (255) where its loss exceeds {facts.alpha:g} x the mean loss of its class on real "
            f"images ({facts.reference}): {100 * mean('ignored_share'):.2f} % of the labelled pixels on average",
        ]
    else:
        rows.append("no pixel was filtered; the label maps are the original ones")
    if facts.unjudged:
        rows.append(f"classes that no real image shows, whose pixels are all kept: {', '.join(facts.unjudged)}")
    rows.append("the head's own mistakes count as the image's: compare with the recall on real images")
    return "\n".join(f"- {row}" for row in rows)
