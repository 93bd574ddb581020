"""Optimizers that train the policy against a reward: ppo, rloo, grpo and dpo. Best-of-n trains nothing."""
