"""What each table of the page says, in a sentence or two for who sees such a number for the first time."""

ABOUT = {
    "win_rate": (
        "How often the judge prefers the aligned response to the policy's own before alignment: a prompt's "
        "share is the mean over the baseline's fresh responses (win 1, tie 0.5, loss 0). 50: as good as "
        "without alignment."
    ),
    "source_minus_home": (
        "Win rate with this source's reward model minus that with the target's own, on the same prompts "
        "against the same responses. *: the 95 % interval excludes 0."
    ),
    "source_minus_best": (
        "Win rate with this source's reward model minus that with the target's best source, which is chosen on these "
        "same prompts. Intervals are of each by itself. *: worse than the best at 95 % for all sources of the target "
        "together; all others are tied with it."
    ),
    "win_rate_at_equal_length": (
        "The win rate that is left when responses are as long as the baseline's: one logistic regression for "
        "all trained cells of a judge and optimizer. Far below the win rate: length has won."
    ),
    "win_own": ("By the very reward model that was optimised: it is no evidence, and in no mean and no count."),
    "win_here": (
        "The same win rate, with the interval that it has for new seeds on these very prompts (Student's t over the "
        "seeds' means); that of the win rate is for new prompts, too."
    ),
    "win_equal_length": ("The win rate that is left when responses are as long as the baseline's."),
    "win_soft": ("As the win rate, with the judge's probabilities in place of its answers."),
    "win_hard": ("As the win rate, with the judge's answers alone."),
    "inconsistent": (
        "Each pair is shown in both orders: how often the judge decides by the order. The more, the less it knows."
    ),
    "unanswered": (
        "Pairs with an order for which the judge gave no answer that could be read; they are in no other number."
    ),
    "share_in_language": (
        "Responses that the language detector takes for the target's language. Below the row of the baseline: "
        "the aligned policy leaves its language."
    ),
    "length": (
        "Mean length of a response in the policy's tokens. Far from the row of the baseline: see the length-"
        "controlled win rate."
    ),
    "eos": ("Responses that ended by themselves, before the limit of new tokens cut them off."),
    "repetition": (
        "Word bigrams that their response has said before. Above the row of the baseline: the policy repeats itself."
    ),
    "reward": (
        "How far the optimised reward model itself puts the aligned responses above the baseline's, in its "
        "standard deviations over the baseline's responses. High where win rates are low: the reward is over-"
        "optimised."
    ),
    "quality": (
        "How far the judge's score of the aligned responses lies above that of the baseline's, in the judge's unit."
    ),
    "kl": (
        "How far the aligned policy has moved from the fine-tuned one (SFT_t): KL divergence along its own "
        "samples, nats a response. ≤: of best-of-n at most log n - (n - 1) / n."
    ),
    "pairwise": (
        "Of two responses to a prompt that people rated differently, how often the reward model prefers the "
        "one that they do. 50: chance."
    ),
    "agreement_with_people_on_pairs_within_a_prompt": (
        "Of two responses to a prompt that people rated differently, how often the reward model prefers the "
        "one that they do. 50: chance."
    ),
    "spearman_correlation_with_people_s_ratings": (
        "Rank correlation of rewards and people's ratings over all responses of a target. 0: none, 1: the same order."
    ),
    "controls_and_references": (
        "Win rates of what learns nothing from preferences, picked from the same samples. random must lie at "
        "50; a trained reward model shows transfer only where it beats the others."
    ),
    "shuffled_labels": (
        "The same reward models trained on permuted labels: what any direction in the features wins by chance."
    ),
    "best-of-k_win_rate": ("Win rate if only k samples are drawn, the reward model's best of them taken."),
    "reward_model_accuracy_on_held-out_preferences": (
        "How often the reward model agrees with the target's held-out preferences. majority, length: rules "
        "without a model, which it must beat."
    ),
    "reward_model_auc_x_100_on_held-out_preferences": (
        "How often the reward model scores a good response above a bad one; needs no threshold, so that "
        "references can be compared. 50: chance."
    ),
    "reward_model_auc_x_100_within_a_document": (
        "The same over pairs of responses of one document: what picking among responses to one prompt needs. A "
        "reward model that only knows which documents are easy has 50."
    ),
    "the_judge_on_held-out_human_preferences": (
        "How often the judge itself agrees with people's preferences: how far win rates are to be believed."
    ),
    "the_language_detector_on_the_task_s_own_references": (
        "How often the detector errs on texts whose language is known: how far shares of responses in the "
        "language are to be believed."
    ),
    "beside_the_win_rates": ("All measures of a cell in a row, under those of the baseline."),
    "optimizers": ("The same sources, targets, prompts and opponents under each optimizer."),
    "win_rate_by_optimizer": "Win rates of every cell under each optimizer, against the same baseline.",
    "kl_from_sft_t": "How far each optimizer has moved the policy. ≤: of best-of-n, at most.",
    "agreement_between_judges": ("The same responses to the same prompts, judged twice."),
}


def about(name: str) -> str:
    """Of a table by its name; empty for one whose title and notes say it: a measure of the user's own, a finding."""
    if name.startswith("trained_minus_"):
        return (
            "The trained reward model minus a reference without training, on the same prompts. Where the interval "
            "includes 0, nothing shows that the preferences have taught it more than the reference knows."
        )
    if name.startswith("win_rate_minus_"):
        return "Each optimizer against one, on the same prompts and opponents. *: the 95 % interval excludes 0."
    return ABOUT.get(name, "")
