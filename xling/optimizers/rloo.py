"""optimizer=rloo, our own: REINFORCE with a leave-one-out baseline, for encoder-decoders and decoder-only policies.

Ahmadian et al. (2024). A response is one action: k of them to each prompt, a reward less the KL penalty each, what the
prompt's others got on average as the baseline, and one step down the gradient. The policy that is updated is the one
that sampled, so that there is no ratio and nothing to clip.
"""

from typing import Any

from xling.config.optimizers import RLOO
from xling.models.responses import predicting_states
from xling.optimizers import estimators, loop
from xling.optimizers.descent import Descent, learning_rate
from xling.optimizers.problem import Problem
from xling.optimizers.rollouts import log_probabilities_under, roll_out, token_scores
from xling.optimizers.watch import Row


def train(problem: Problem, settings: RLOO) -> None:
    """Train the policy in place; it ends at the checkpoint that is kept.

    Raises Interrupted, with a checkpoint in the scratch folder, soon after `problem.stopping` has become true, and
    StageError if it diverges. A step has batch_size // k prompts; planning refuses what does not divide.
    """
    loop.run(problem, settings, Learner(problem, settings))


class Learner:
    """The policy with its gradient optimizer."""

    def __init__(self, problem: Problem, settings: RLOO) -> None:
        self.problem, self.settings, self.policy = problem, settings, problem.policy
        self.descent = Descent("policy", self.policy.parameters(), settings.optimizer, "learning_rate")

    def iterate(self, number: int) -> Row:
        """Sample, score, and update the policy once."""
        settings, problem = self.settings, self.problem
        rollout = roll_out(problem, number, settings.batch_size // settings.k, settings.k)
        batch = rollout.batch(self.policy, problem.pad, range(len(rollout.responses)))
        states = predicting_states(self.policy, batch)[batch.mask]
        log_p, entropy = token_scores(self.policy, batch, states, entropy=True)
        reference, old = log_probabilities_under(problem.reference, batch), log_p.detach()
        kl = estimators.kl_k1(old, reference, batch.mask)
        objective = rollout.rewards - settings.beta * kl
        advantages = estimators.leave_one_out(objective.view(-1, settings.k)).flatten()
        loss = estimators.reinforce_loss(log_p, advantages, batch.mask)
        loss.backward()
        rate = learning_rate(settings.learning_rate, number, settings.steps, settings.warmup_steps, settings.schedule)
        norm = self.descent.step(rate)
        return rollout.row(problem.eos) | {
            "kl_k1": float(kl.mean()),
            "kl_k3": float(estimators.kl_k3(old, reference, batch.mask).mean()),
            "entropy": float(estimators.masked_mean(entropy, batch.mask)),
            "policy_loss": float(loss.detach()),
            "gradient_norm": norm,
            "beta": settings.beta,
        }

    def state(self) -> dict[str, Any]:
        return {"policy": self.policy.state_dict(), "descent": self.descent.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.descent.restore(state["descent"])
