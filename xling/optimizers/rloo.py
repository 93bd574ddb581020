"""optimizer=rloo: REINFORCE with a leave-one-out baseline, for decoder-only and encoder-decoder policies.

Ahmadian et al. (2024). A response is one action: k of them to each prompt, a reward less the KL penalty each, what the
prompt's others got on average as the baseline, and one step down the gradient. The policy that is updated is the one
that sampled, so that there is no ratio and nothing to clip.

Decoder-only policies are trained by trl's trainer unless optimizer.trainer=own (trl_trainers.py), others by ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from xling.config.policies import LanguageModel
from xling.optimizers import (
    GroupTraining,
    Held,
    check_groups,
    check_trl,
    group_work,
    is_encoder_decoder,
    trained_policy,
    training,
)
from xling.optimizers.problem import Problem, Row
from xling.optimizers.training import (
    Part,
    Rollout,
    follow,
    kl_k1,
    kl_k3,
    masked_mean,
    micro_batches,
    reference_scores,
    roll_out,
    run,
    together,
    token_scores,
)
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from torch import Tensor


class Settings(GroupTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="rloo"):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): trl's trainer, or ours for encoder-decoders."""

    trainer: Literal["auto", "trl", "own"] = "auto"  # auto: trl's for decoder-only policies, else our own

    def by_trl(self, encoder_decoder: bool) -> bool:
        """Whether it is trl's trainer that trains a policy."""
        return self.trainer == "trl" or (self.trainer == "auto" and not encoder_decoder)


def check(settings: Settings, policy: LanguageModel, rm: RewardModel) -> None:
    """A batch must be a whole number of groups; trl's trainer does not take every policy."""
    if settings.by_trl(is_encoder_decoder(policy)):
        name = "optimizer.trainer=trl" if settings.trainer == "trl" else "optimizer=rloo"
        check_trl(name, settings, policy, "Type optimizer.trainer=own.")
    check_groups(settings)


stages = trained_policy
work = group_work


def held(settings: Settings) -> Held:
    """The whole batch; trl computes the logits of decoder-only policies unless optimizer.trainer=own."""
    return Held(settings.batch_size, settings.batch_size, tiled=settings.by_trl(encoder_decoder=False))


def by_trl(settings: Settings, encoder_decoder: bool) -> bool:
    """Whether it is trl's trainer that trains a policy."""
    return settings.by_trl(encoder_decoder)


def train(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Train the policy in place; it ends at the checkpoint that is kept.

    Raises Interrupted, with a checkpoint in the scratch folder, soon after `problem.stopping` has become true, and
    StageError if it diverges. A step has batch_size // k prompts.
    """
    if settings.by_trl(problem.policy.config.is_encoder_decoder):
        from xling.optimizers import trl_trainers

        trl_trainers.train_by_rloo(problem, settings)
    else:
        run(Learner(problem, settings))
    return {}


class Learner(training.Learner[Settings]):
    """One step down the gradient of REINFORCE's loss an iteration."""

    def iterate(self, number: int) -> Row:
        """Sample, score, and update the policy once."""
        import torch

        settings, problem = self.settings, self.problem
        rollout = roll_out(problem, number, settings.batch_size // settings.k, settings.k)
        order = micro_batches(range(len(rollout.responses)), settings.micro_batch_size)
        # What advantages are made of is known once all is read: with gradients at once, if that is one part.
        with torch.set_grad_enabled(len(order) == 1):
            read = [self._read(rollout, rows) for rows in order]
        old, entropy = (together(column, order, rollout) for column in zip(*read, strict=True))
        reference, mask = reference_scores(problem, rollout, order), rollout.mask()
        kl = kl_k1(old, reference, mask)
        objective = rollout.rewards - settings.beta * kl
        advantages = leave_one_out(objective.view(-1, settings.k)).flatten()

        def loss(rows: list[int]) -> Part:
            log_p, _ = read[0] if len(order) == 1 else self._read(rollout, rows)
            own = reinforce_loss(log_p, advantages[rows], mask[rows, : log_p.shape[1]]) * (len(rows) / len(advantages))
            return own, {"policy_loss": float(own.detach())}

        row, [norm] = follow([partial(loss, rows) for rows in order], {self.descent: self.rate(number)})
        return rollout.row(problem.ends) | {
            "kl_k1": float(kl.mean()),
            "kl_k3": float(kl_k3(old, reference, mask).mean()),
            "entropy": float(masked_mean(entropy, mask)),
            "policy_loss": row["policy_loss"],
            "gradient_norm": norm,
            "beta": settings.beta,
        }

    def _read(self, rollout: Rollout, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, R) each: log-probabilities and entropies of some responses' tokens."""
        from xling.models.states import predicting_states

        batch = rollout.batch(self.policy, self.problem.pad, rows)

        def read(policy: Any) -> tuple[Tensor, Tensor]:
            return token_scores(policy, batch, predicting_states(policy, batch)[batch.mask], entropy=True)

        with self.problem.computing():
            return self.problem.through(self.policy, read)


def leave_one_out(rewards: Tensor) -> Tensor:
    """(P, k) rewards of k responses a prompt -> (P, k) advantages: r_i - the mean of the prompt's other k - 1.

    Ahmadian et al. (2024), "Back to basics: Revisiting REINFORCE-style optimization", equation 8 (Kool et al. 2019).
    """
    k = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (k - 1)


def reinforce_loss(log_p: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Scalar: minus the mean over responses of A (B,) times the sum of log p (B, R) over the response's tokens.

    Williams (1992); a response is one action (Ahmadian et al. 2024, section 3.1).
    """
    return -(advantages * (log_p * mask).sum(1)).mean()
