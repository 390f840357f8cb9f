"""Prequential metrics against independent implementations; probe sets and forgetting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score
from torch import Tensor

from stream_mtl import batch as batches
from stream_mtl import config as settings
from stream_mtl import state as states
from stream_mtl.batch import Batch, Spec
from stream_mtl.errors import StateError
from stream_mtl.evaluation import Evaluation
from stream_mtl.prequential import logits, ndcg
from stream_mtl.probes import exact_auc

SPEC = Spec(("item",), ("price",), ("click", "purchase", "search"), table_rows=64, text_dim=2)
CONFIG = settings.Evaluation(probe_rows=200, probe_share=0.25)


def rows(
    label_BT: list[list[float]] | Tensor, known: list[list[bool]] | None = None, **more: Tensor
) -> Batch:
    labels = torch.as_tensor(label_BT, dtype=torch.float32)
    mask = torch.ones_like(labels, dtype=torch.bool) if known is None else torch.tensor(known)
    keys = torch.arange(len(labels))
    fields = {"label_BT": labels, "mask_BT": mask, "row_key_B": keys, "list_key_B": keys} | more
    return replace(batches.empty(SPEC, len(labels)), **fields)


def of_click(labels: list[float]) -> Batch:
    return rows([[y, 0.0, 0.0] for y in labels], [[True, False, False] for _ in labels])


def served(click: list[float]) -> Tensor:
    return torch.tensor([[p, 0.5, 0.5] for p in click])


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-2, 1.5, n)))
    return p, (rng.random(n) < p).astype(float)


def test_nothing_observed_is_undefined_not_zero() -> None:
    """None where a metric has no value yet, and all keys of the summary are there."""
    click = Evaluation(CONFIG, SPEC).summary()["click"]
    assert click.pop("labels") == click.pop("positives") == 0
    assert set(click.values()) == {None}
    assert sorted(click) == [
        "auc", "backward_transfer", "calibration", "ece", "forgetting", "forward_transfer", "gauc", "macro_f1",
        "ndcg", "normalized_entropy", "rmse",
    ]  # fmt: skip


def test_normalised_entropy_equals_torcheval() -> None:
    """torcheval's documented example: binary_normalized_entropy([.2, .3], [1, 0]) = 1.4183."""
    evaluation = Evaluation(CONFIG, SPEC)
    evaluation.observe(served([0.2, 0.3]), of_click([1.0, 0.0]))
    quality = evaluation.summary()["click"]
    assert quality["normalized_entropy"] == pytest.approx(1.4183, abs=1e-4)
    assert quality["calibration"] == pytest.approx(0.5)
    assert (quality["labels"], quality["positives"]) == (2, 1)


def test_metrics_equal_scikit_learn() -> None:
    """AUC within 1e-3 (histogram), log loss to float precision; in whatever pieces rows come."""
    p, y = noisy(5_000)
    evaluation = Evaluation(CONFIG, SPEC)
    for start in range(0, len(p), 77):
        part = slice(start, start + 77)
        evaluation.observe(served(list(p[part])), of_click(list(y[part])))
    quality = evaluation.summary()["click"]
    rate = y.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert quality["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-3)
    assert quality["normalized_entropy"] == pytest.approx(log_loss(y, p) / entropy, rel=1e-4)
    assert quality["calibration"] == pytest.approx(p.sum() / y.sum(), rel=1e-4)
    assert evaluation.summary()["purchase"]["labels"] == 0, "masked labels are not negatives"


def test_calibration_error_and_grouped_auc_of_a_task() -> None:
    """ECE by hand over ten equal parts; GAUC user by user with scikit-learn."""
    p, y = noisy(500)
    user = torch.arange(500) % 20
    evaluation = Evaluation(CONFIG, SPEC)
    evaluation.observe(served(list(p)), replace(of_click(list(y)), user_key_B=user))
    quality = evaluation.summary()["click"]
    order = np.argsort(p)
    parts = zip(np.split(p[order], 10), np.split(y[order], 10), strict=True)
    assert quality["ece"] == pytest.approx(
        np.mean([abs(said.mean() - label.mean()) for said, label in parts]), abs=3e-3
    )
    of = [user.numpy() == u for u in range(20) if 0 < y[user.numpy() == u].sum() < 25]
    expected = np.mean([roc_auc_score(y[rows], p[rows]) for rows in of])  # equally many rows each
    assert quality["gauc"] == pytest.approx(expected)


def test_ten_thresholds_would_not_do() -> None:
    """Power: with few buckets on the probability scale, AUC of rare events is far off."""
    p, y = noisy(5_000)
    coarse = np.digitize(p / 20, np.linspace(0, 1, 11))
    assert abs(roc_auc_score(y, coarse) - roc_auc_score(y, p)) > 1e-2


def test_sampled_rows_are_compared_on_the_scale_of_the_sample() -> None:
    """Negatives kept at rate w make odds 1/w times higher; calibration must allow for it."""
    rng = np.random.default_rng(1)
    p, y = noisy(20_000)
    keep = (y == 1) | (rng.random(len(p)) < 0.1)
    p, y = p[keep], y[keep]
    offset = torch.full((len(p),), float(np.log(10)))
    corrected, naive = Evaluation(CONFIG, SPEC), Evaluation(CONFIG, SPEC)
    corrected.observe(served(list(p)), replace(of_click(list(y)), offset_B=offset))
    naive.observe(served(list(p)), of_click(list(y)))
    assert corrected.summary()["click"]["calibration"] == pytest.approx(1.0, abs=0.05)
    naive_calibration = naive.summary()["click"]["calibration"]
    assert naive_calibration is not None
    assert naive_calibration < 0.5
    assert corrected.summary()["click"]["auc"] == naive.summary()["click"]["auc"]


def test_probabilities_of_zero_and_one_stay_finite() -> None:
    """A young model may saturate; one certain mistake must not end in infinity."""
    evaluation = Evaluation(CONFIG, SPEC)
    evaluation.observe(served([0.0, 1.0]), of_click([1.0, 0.0]))
    assert np.isfinite(evaluation.summary()["click"]["normalized_entropy"])
    assert np.isfinite(logits(np.array([0.0, 1.0]))).all()


def test_rows_that_were_never_served_are_not_judged() -> None:
    """NaN says that no prediction was made."""
    evaluation = Evaluation(CONFIG, SPEC)
    evaluation.observe(served([float("nan"), 0.3]), of_click([1.0, 0.0]))
    assert evaluation.summary()["click"]["labels"] == 1


def test_faded_metrics_forget_the_whole_ones_do_not() -> None:
    """A model that was good and turns bad: the faded AUC shows it, the lineage's hides it."""
    evaluation = Evaluation(settings.Evaluation(fading=0.5), SPEC)
    labels = [1.0, 0.0] * 256
    for scores in ([0.9, 0.1],) * 20 + ([0.1, 0.9],) * 6:
        evaluation.observe(served(scores * 256), of_click(labels))
    assert evaluation.summary()["click"]["auc"] == pytest.approx(20 / 26)
    assert evaluation.faded()["click"]["auc"] == pytest.approx(1 / 64, abs=1e-3)


def test_ndcg_of_listwise_tasks_alone() -> None:
    """One positive at rank 2 gives 1 / log2(3); lists without a positive are left out."""
    evaluation = Evaluation(CONFIG, SPEC, listwise=["search"])
    lists = torch.tensor([7, 7, 7, 8, 8, 9])
    labels = [[0.0, 0.0, y] for y in (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)]
    known = [[True, False, True]] * 6
    p_BT = torch.tensor([[0.5, 0.5, p] for p in (0.4, 0.6, 0.1, 0.3, 0.2, 0.9)])
    evaluation.observe(p_BT, rows(labels, known, list_key_B=lists))
    assert evaluation.summary()["search"]["ndcg"] == pytest.approx(1 / np.log2(3))
    assert evaluation.summary()["click"]["ndcg"] is None


def test_ndcg_equals_scikit_learn() -> None:
    """Lists of 15 with several positives, cut at 10."""
    rng = np.random.default_rng(2)
    scores, labels = rng.random((40, 15)), (rng.random((40, 15)) < 0.2).astype(float)
    labels[:, 0] = 1.0
    total, lists = ndcg(
        np.repeat(np.arange(40), 15), scores.ravel(), labels.ravel(), np.arange(600)
    )
    assert lists == 40
    assert total / lists == pytest.approx(ndcg_score(labels, scores, k=10))


def test_equal_scores_are_not_ordered_by_the_rows() -> None:
    """The clicked row often comes first; a constant model must not look perfect for it."""
    evaluation = Evaluation(CONFIG, SPEC, listwise=["search"])
    keys = torch.arange(2_000)
    labels = [[0.0, 0.0, float(i % 10 == 0)] for i in range(2_000)]
    evaluation.observe(torch.full((2_000, 3), 0.5), rows(labels, list_key_B=keys // 10))
    value = evaluation.summary()["search"]["ndcg"]
    chance = np.mean([1 / np.log2(1 + rank) for rank in range(1, 11)])
    assert value == pytest.approx(chance, abs=0.05)


# ---- probe sets


def probe_rows(n: int, domain: int, start: int = 0, positive: float = 0.5) -> Batch:
    keys = torch.arange(start, start + n)
    label = (torch.arange(n) < n * positive).float()
    return rows(
        torch.stack([label, label, label], 1),
        [[True, False, False]] * n,
        row_key_B=keys,
        list_key_B=keys,
        user_key_B=keys % 10,
        domain_B=torch.full((n,), domain),
    )


def add(evaluation: Evaluation, batch: Batch, said: float | Tensor = 0.5) -> None:
    """Held-out rows of which that was served."""
    evaluation.add_probes(batch, said * torch.ones(len(batch), 3))


def right(batch: Batch) -> Tensor:
    """A model that knows every label."""
    return batch.label_BT * 0.8 + 0.1


def wrong_in(domain: int) -> object:
    def predict(batch: Batch) -> Tensor:
        p_BT = right(batch)
        return torch.where((batch.domain_B == domain)[:, None], 1 - p_BT, p_BT)

    return predict


def test_probe_lists_are_picked_by_hash_and_whole() -> None:
    """About the configured share; the same list always alike; none at share 0, all at share 1."""
    keys = torch.arange(40_000) * 2_654_435_761
    evaluation = Evaluation(CONFIG, SPEC)
    mask = evaluation.is_probe(keys)
    assert mask.dtype == torch.bool
    assert mask.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(mask, evaluation.is_probe(keys))
    assert not Evaluation(settings.Evaluation(probe_share=0), SPEC).is_probe(keys).any()
    assert Evaluation(settings.Evaluation(probe_share=1), SPEC).is_probe(keys).all()


def test_forgetting_is_best_minus_now_averaged_over_domains() -> None:
    """One of two domains turned upside down: (1 - 0 + 0) / 2; recovered: 0."""
    evaluation = Evaluation(CONFIG, SPEC)
    add(evaluation, batches.concat([probe_rows(200, 1), probe_rows(200, 2, start=500)]))
    assert evaluation.summary()["click"]["forgetting"] is None
    evaluation.evaluate_probes(right)
    assert evaluation.summary()["click"]["forgetting"] == 0.0
    evaluation.evaluate_probes(wrong_in(2))
    assert evaluation.summary()["click"]["forgetting"] == pytest.approx(0.5)
    assert evaluation.probes() == {("click", 1): (1.0, 1.0), ("click", 2): (1.0, 0.0)}
    evaluation.evaluate_probes(right)
    assert evaluation.summary()["click"]["forgetting"] == 0.0
    assert evaluation.summary()["purchase"]["forgetting"] is None


def test_a_probe_set_is_measured_only_when_it_can_be_compared_later() -> None:
    """Not before it is full (or large), not with fewer than 20 of a class; frozen, it stays as it is."""
    evaluation = Evaluation(CONFIG, SPEC)
    add(evaluation, probe_rows(150, 1))
    evaluation.evaluate_probes(right)
    assert evaluation.probes() == {}
    add(evaluation, probe_rows(80, 1, start=150))
    seen: list[int] = []

    def predict(batch: Batch) -> Tensor:
        seen.append(len(batch))
        return right(batch)

    evaluation.evaluate_probes(predict)
    add(evaluation, probe_rows(80, 1, start=900))
    evaluation.evaluate_probes(predict)
    assert seen == [200, 200]
    rare = Evaluation(CONFIG, SPEC)
    add(rare, probe_rows(200, 1, positive=0.05))
    rare.evaluate_probes(right)
    assert rare.probes() == {}


def test_a_later_label_replaces_the_earlier_in_an_open_set() -> None:
    """A row is in a set once, by its key."""
    evaluation = Evaluation(CONFIG, SPEC)
    first = probe_rows(150, 1, positive=0.0)
    add(evaluation, first)
    add(evaluation, probe_rows(150, 1, positive=0.5))
    add(evaluation, probe_rows(50, 1, start=150))
    sizes: list[tuple[int, float]] = []

    def predict(batch: Batch) -> Tensor:
        sizes.append((len(batch), batch.label_BT[:, 0].sum().item()))
        return right(batch)

    evaluation.evaluate_probes(predict)
    assert sizes == [(200, 100.0)]
    assert first.label_BT[:, 0].sum() == 0, "the caller's rows are not touched"


def test_an_erased_user_is_in_no_probe_set() -> None:
    """Frozen or not."""
    evaluation = Evaluation(CONFIG, SPEC)
    add(evaluation, batches.concat([probe_rows(200, 1), probe_rows(50, 2, start=300)]))
    assert evaluation.erase(3) == 25
    assert evaluation.erase(3) == 0
    kept = [v for name, v in evaluation.state().items() if name.endswith("/user_key_B")]
    assert kept
    assert all((keys != 3).all() for keys in kept)
    evaluation.evaluate_probes(right)
    assert evaluation.probes() == {("click", 1): (1.0, 1.0)}


def test_an_erased_user_is_in_no_row_that_waits_to_be_counted() -> None:
    """Labels count, but as nobody's: they rank within their list."""
    evaluation = Evaluation(CONFIG, SPEC)
    owned = {"user_key_B": torch.tensor([777, 778, 777]), "list_key_B": torch.tensor([5, 6, 5])}
    evaluation.observe(
        served([0.2, 0.3, 0.4]), rows([[1.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3], **owned)
    )
    evaluation.erase(777)
    assert evaluation.state()["waiting/user_key_B"].tolist() == [5, 778, 5]
    assert evaluation.summary()["click"]["labels"] == 3


def test_forward_and_backward_transfer_of_domains_one_after_the_other() -> None:
    """Worked by hand. The first domain was served by chance and the second well (.75 of the pairs); the first was known by .5
    after its stage and wholly later, the second the other way round: backward (.5 - 1) / 2 + ..., each less its start."""
    evaluation = Evaluation(CONFIG, SPEC)
    half = torch.tensor([0.8, 0.2]).repeat(100)[:, None]  # as good as a coin
    add(evaluation, probe_rows(200, 1), half)
    evaluation.evaluate_probes(lambda batch: torch.full((len(batch), 3), 0.5))
    quality = evaluation.summary()["click"]
    assert (quality["forward_transfer"], quality["backward_transfer"]) == (None, 0.0)
    second = probe_rows(200, 2, start=500)
    said = second.label_BT * 0.6 + 0.2
    said[:50] = 0.2  # half of the positives are as low as the negatives: 1 / 2 + 1 / 4 of the pairs
    add(evaluation, second, said)
    evaluation.evaluate_probes(right)
    evaluation.evaluate_probes(wrong_in(2))
    quality = evaluation.summary()["click"]
    assert quality["forward_transfer"] == pytest.approx(0.75 - 0.5)
    assert quality["backward_transfer"] == pytest.approx(((1 - 0.5) + (0 - 1)) / 2)
    assert quality["forgetting"] == pytest.approx(((1 - 1) + (1 - 0)) / 2)


def test_what_was_never_served_says_nothing_of_forward_transfer() -> None:
    evaluation = Evaluation(CONFIG, SPEC)
    add(evaluation, probe_rows(200, 1))
    rows_ = probe_rows(200, 2, start=500)
    add(evaluation, rows_, torch.full((200, 3), torch.nan))
    add(evaluation, probe_rows(200, 3, start=900), rows_.label_BT * 0.6 + 0.2)
    evaluation.evaluate_probes(right)
    assert evaluation.summary()["click"]["forward_transfer"] == pytest.approx(0.5)


def test_every_span_of_event_time_has_its_own_probe_set_and_the_oldest_goes() -> None:
    """Rows come late and out of order; a set keeps to its span, and a span that is gone is not begun again."""
    spans = CONFIG.model_copy(update={"probe_period_ms": 1_000, "probe_periods": 2})
    evaluation, day = Evaluation(spans, SPEC), probe_rows(200, 1)

    def sizes() -> dict[str, int]:
        names = (name for name in evaluation.state() if name.endswith("/row_key_B"))
        return {name.split("/")[2][2:]: len(evaluation.state()[name]) for name in names}

    for period, start in ((5, 0), (6, 300), (5, 600), (4, 900), (7, 1_200)):
        times = torch.full((90,), 1_000 * period + 7)
        add(evaluation, replace(probe_rows(90, 1, start=start), time_B=times))
    assert sizes() == {"6": 90, "7": 90}, "of 5 and 6 the newest two stayed, then 6 and 7"
    add(evaluation, replace(day, time_B=torch.full((200,), 6_100)))
    evaluation.evaluate_probes(right)
    assert sizes() == {"6": 200, "7": 90}
    assert evaluation.probes() == {("click", 1): (1.0, 1.0)}
    add(evaluation, replace(day, time_B=torch.full((200,), 8_000)))
    evaluation.evaluate_probes(wrong_in(1))
    assert evaluation.summary()["click"]["forgetting"] == pytest.approx(0.0), (
        "6, which was known, has gone"
    )


def test_a_window_is_of_its_newest_rows_alone_and_exact() -> None:
    """Against scikit-learn, in whatever pieces rows come, those that wait for a block included."""
    p, y = noisy(3_000)
    evaluation = Evaluation(CONFIG.model_copy(update={"window_rows": 700}), SPEC)
    for start in range(0, len(p), 77):
        part = slice(start, start + 77)
        evaluation.observe(served(list(p[part])), of_click(list(y[part])))
        if start % 2:
            evaluation.windowed()
    newest, rate = evaluation.windowed()["click"], y[-700:].mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert newest["labels"] == 700
    assert newest["auc"] == pytest.approx(roc_auc_score(y[-700:], p[-700:]), abs=1e-3)
    assert newest["normalized_entropy"] == pytest.approx(
        log_loss(y[-700:], p[-700:]) / entropy, rel=1e-4
    )
    assert evaluation.summary()["click"]["labels"] == 3_000


def test_no_window_is_kept_where_none_is_asked_for() -> None:
    evaluation = Evaluation(CONFIG.model_copy(update={"window_rows": 0}), SPEC)
    evaluation.observe(served([0.2, 0.3]), of_click([1.0, 0.0]))
    assert evaluation.windowed()["click"]["labels"] == 0
    assert not [name for name in evaluation.state() if name.startswith("newest/")]


def test_an_erased_user_is_in_no_window() -> None:
    evaluation = Evaluation(CONFIG, SPEC)
    owned = {"user_key_B": torch.tensor([777, 778, 777]), "list_key_B": torch.tensor([5, 6, 5])}
    evaluation.observe(served([0.2, 0.3, 0.4]), rows([[1.0, 0.0, 0.0]] * 3, **owned))
    evaluation.erase(777)
    assert evaluation.state()["newest/user_key_B"].tolist() == [5, 778, 5]
    assert evaluation.windowed()["click"]["labels"] == 3


def test_exact_auc_counts_ties_half() -> None:
    """Against scikit-learn, with many equal scores."""
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 6, 300) / 5, rng.random(300) < 0.3
    assert exact_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_restored_it_goes_on_bit_for_bit() -> None:
    """Sums, the fading block under way, probe rows, best so far."""
    p, y = noisy(900)

    def half(evaluation: Evaluation, part: slice, domain: int) -> None:
        evaluation.observe(served(list(p[part])), of_click(list(y[part])))
        add(
            evaluation,
            probe_rows(150, domain, start=domain * 1_000),
            torch.arange(150)[:, None] / 150,
        )
        add(evaluation, probe_rows(60, 1, start=domain * 5_000), 0.3)
        evaluation.evaluate_probes(right)

    first, second = Evaluation(CONFIG, SPEC, ["search"]), Evaluation(CONFIG, SPEC, ["search"])
    half(first, slice(0, 600), 1)
    second.restore({k: v.clone() if isinstance(v, Tensor) else v for k, v in first.state().items()})
    assert states.digest(first.state()) == states.digest(second.state())
    for evaluation in (first, second):
        half(evaluation, slice(600, 900), 2)
        evaluation.evaluate_probes(wrong_in(1))
    assert states.digest(first.state()) == states.digest(second.state())
    assert first.summary() == second.summary()
    assert first.faded() == second.faded()
    assert first.windowed() == second.windowed()


def test_a_state_of_other_tasks_or_widths_is_refused() -> None:
    """StateError with what was found and expected."""
    evaluation = Evaluation(CONFIG, SPEC)
    add(evaluation, probe_rows(10, 1))
    with pytest.raises(StateError, match="tasks"):
        Evaluation(CONFIG, replace(SPEC, tasks=("click",))).restore(evaluation.state())
    with pytest.raises(StateError, match="dense_BD"):
        Evaluation(CONFIG, replace(SPEC, dense_fields=("a", "b"))).restore(evaluation.state())
