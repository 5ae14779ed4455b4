"""What evaluations, exports, label stages and all stages tell."""

from rlhf.report.metrics.metric import Metric

REWARD_EVALUATION = {
    "ece": Metric(
        "Calibration error", "How far stated confidence is from observed accuracy, mean over pairs.", "share"
    ),
    "ece_scaled": Metric("Calibration error, scaled", "The same after temperature scaling.", "share"),
    "ece_if_calibrated": Metric(
        "Calibration error by chance", "What so many pairs would show of a perfectly calibrated model.", "share"
    ),
    "temperature": Metric(
        "Temperature", "What scores are to be divided by to mean what they say; above 1, the model is too sure."
    ),
    "brier": Metric(
        "Brier score", "Mean squared distance of the stated probability from what people chose; 0 is best."
    ),
    "log_loss": Metric(
        "Log loss", "Surprise at what people chose, mean over pairs; log 2 = 0.69 is guessing.", unit="nats"
    ),
    "reliability": Metric(
        "Reliability", "Of a model: confidence and accuracy, bin by bin; of a person: 1: never wrong."
    ),
    "reliability_scaled": Metric("Reliability, scaled", "The same after temperature scaling."),
    "scores": Metric("Distribution of scores", "How many answers got which score."),
    "groups": Metric("Accuracy by group", "On parts of the pairs."),
    "calibration_why": Metric("Calibration"),
    "gain_over_longest": Metric("Gain over “longest wins”", "Difference of the two accuracies.", "share"),
    "agreement_people": Metric(
        "Agreement between people",
        "How often others who judged the same pair order it alike. A model may be above it: it has two people's slips.",
        "share",
    ),
    "agreement_people_why": Metric("Agreement between people"),
    "accuracy_people": Metric(
        "Agreement between people", "How often others who judged the same pair order it alike.", "share"
    ),
    "accuracy_judged_twice": Metric(
        "Accuracy on pairs judged twice", "On the pairs that the agreement between people is known of.", "share"
    ),
    "length_correlation": Metric(
        "Score by length", "Rank correlation of score and length: near 1, length is what pays."
    ),
    "length_correlation_within": Metric("Score by length, within prompts", "The same among the answers to one prompt."),
    "num_judged_twice": Metric("Pairs judged twice", format="count"),
    "num_judged_both_ways": Metric("Pairs judged both ways", "By different people, or by one who changed.", "count"),
    "num_equal_scores": Metric("Pairs with equal scores", "They count half.", "count"),
    "num_comparisons": Metric("Comparisons with others", format="count"),
    "num_equal_texts": Metric("Pairs with equal texts", "Left out.", "count"),
    "num_prompts_trained_on": Metric(
        "Prompts it was trained on", "Of those measured on; there should be none.", "count"
    ),
    "num_ties": Metric("Ties", "Pairs that people found equally good.", "count"),
    "tie_distance": Metric("Distance within ties", "Mean difference in score of answers found equally good.", "score"),
}

POLICY_EVALUATION = {
    "win_rate": Metric(
        "Win rate", "Share of held-out prompts on which the candidate's answer is preferred; ties count half.", "share"
    ),
    "confidence": Metric("Confidence of the intervals", "Share of such intervals that hold the true figure.", "share"),
    "wins": Metric("Wins", format="count"),
    "ties": Metric("Ties", format="count"),
    "losses": Metric("Losses", format="count"),
    "order_disagreement": Metric(
        "Order disagreement", "Share of pairs that are judged differently when shown the other way round.", "share"
    ),
    "kl_se": Metric("Standard error of the divergence", unit="nats"),
    "judge_is_training_reward": Metric(
        "Judge is a training reward", "Whether the candidate was trained on what now judges it."
    ),
    "win_rate_length_controlled": Metric(
        "Win rate at equal length", "What would be left of the win rate if both sides wrote as much.", "share"
    ),
    "candidate": Metric("Candidate"),
    "baseline": Metric("Baseline"),
    "candidates": Metric("Candidates"),
    "pairs": Metric("Candidates against each other"),
    "judges": Metric("Other judges"),
    "reference": Metric("Reference", "What the divergence is measured from."),
    "judge": Metric("Judge"),
    "model": Metric("Model"),
    "score": Metric("Score", "Mean score by the judge.", "score"),
    "length": Metric("Answer length", unit="tokens"),
    "ends_with_eos": Metric("Answers that end by themselves", format="share"),
    "distinct_1": Metric("Distinct words", "As a share of all words: variety of wording.", "share"),
    "distinct_2": Metric("Distinct word pairs", "As a share of all word pairs: variety of wording.", "share"),
    "distinct_3": Metric("Distinct word triples", "As a share of all word triples: variety of wording.", "share"),
    "self_bleu": Metric(
        "Self-BLEU", "How alike the answers to different prompts are; 1: all the same. Lower is varied."
    ),
    "repetition": Metric("Repetition", "Share of word sequences that stood in the same answer before.", "share"),
    "repeated_4grams": Metric(
        "Repeated 4-grams", "Share of sequences of four words that stood in the same answer before.", "share"
    ),
    "forgotten": Metric(
        "Forgotten", "By how much held-out demonstrations have become less likely, per token.", unit="nats"
    ),
    "num_demonstrations": Metric("Held-out demonstrations", format="count"),
    "judge_shares_annotators": Metric(
        "Judge shares annotators", "Whether the judge learned from people whom the training reward learned from too."
    ),
    "judge_shares_judgements": Metric(
        "Judge shares judgements",
        "Whether the judge learned from judgements that the training reward learned from too.",
    ),
    "num_unjudged": Metric(
        "Prompts without a verdict", "The judge gave none in at least one order; they are left out.", "count"
    ),
    "best_of": Metric("Best of", "Answers drawn for each prompt, of which a scorer’s best was kept.", "count"),
    "kl_bound": Metric(
        "KL divergence, at most",
        "How far best-of-n can be from what it draws from: a bound, not a measurement.",
        unit="nats",
    ),
    "tokens_sampled_per_prompt": Metric(
        "Tokens sampled per prompt", "What an answer costs; best-of-n pays for all that it throws away.", "count"
    ),
    "num_unparsed": Metric("Verdicts not understood", "Answers of the judge that name neither side.", "count"),
    "num_questions": Metric("Questions to the judge", format="count"),
}

FRONTIER = {
    "frontier": Metric("Held-out judge"),
    "num_evaluations": Metric("Evaluations", "With a judge that training does not see.", "count"),
    "falls": Metric("Falls after its peak", "By more than noise explains."),
    "overoptimised": Metric(
        "Over-optimised",
        "The judge’s score falls while the training reward still rises: the reward is exploited.",
    ),
    "p_value": Metric("Chance of such a fall by noise", "Below 5% it counts as a fall.", "share"),
    "peak_step": Metric("Update at the peak", "Each evaluation is averaged with its neighbours.", "count"),
    "peak_kl": Metric("Divergence at the peak", "How far the policy was from its reference.", unit="nats"),
    "peak_judge": Metric("Score at the peak", "By the judge, averaged with its neighbours.", "score"),
    "last_step": Metric("Last update judged", format="count"),
    "last_kl": Metric("Divergence at the end", "How far the policy is from its reference.", unit="nats"),
    "last_judge": Metric("Score at the end", "By the judge, averaged with its neighbour.", "score"),
    "score_rise_after_peak": Metric("Training reward gained after the peak", format="score"),
}

EXPORT = {
    "path": Metric("Folder"),
    "format": Metric("Format"),
    "kind": Metric("Kind of model"),
    "dtype": Metric("Precision", "Of the weights."),
    "num_parameters": Metric("Parameters", format="count"),
    "bytes": Metric("Size", "Of all files.", "count", "bytes"),
    "sha256": Metric("SHA-256"),
}

LABELS = {
    "num_rankings": Metric("Rankings", format="count"),
    "num_annotators": Metric("Annotators", format="count"),
    "agreement": Metric("Agreement", "How often two annotators prefer the same answer of two.", "share"),
    "num_train_rankings": Metric("Training rankings", format="count"),
    "num_train_pairs": Metric("Training pairs", "Pairs of answers that the training rankings put in order.", "count"),
    "num_without_choice": Metric("Prompts without a choice", "All sampled answers were the same.", "count"),
    "simulated": Metric("Simulated annotators", "A program judged, not people."),
    "num_tasks": Metric("Tasks", "Prompts with answers to be ranked.", "count"),
    "num_pool": Metric("Tasks to choose from", format="count"),
    "num_by_disagreement": Metric("Tasks chosen by disagreement", "The others were drawn at random.", "count"),
    "disagreement_chosen": Metric("Disagreement, chosen tasks", "Of the ensemble on the order of the answers."),
    "disagreement_pool": Metric("Disagreement, all tasks", "The same on all tasks that could be chosen."),
}

ANY = {
    "learning_rate": Metric("Learning rate"),
    "lr": Metric("Learning rate"),
    "grad_norm": Metric("Gradient norm", "Before clipping."),
    "num_tokens": Metric("Tokens seen", format="count"),
    "num_prompts": Metric("Prompts", format="count"),
    "num_set_aside": Metric("Rows set aside", "Rows that could not be used; the run folder lists them.", "count"),
    "num_truncated": Metric("Rows cut to fit the context", format="count"),
    "num_overlong": Metric("Prompts too long for the context", format="count"),
    "steps": Metric("Optimiser steps", format="count"),
    "num_steps": Metric("Optimiser steps", format="count"),
    "eos_share": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "run": Metric("Run"),
    "status": Metric("Status"),
    "artefact": Metric("Published"),
    "artefacts": Metric("Published"),
    "ref": Metric("Model"),
    "error": Metric("Error"),
    "scorer_failed": Metric("A scorer failed", "It gave no numbers; mended, the run can go on."),
    "stopped": Metric("Stopped"),
    "report": Metric("Report"),
    "seconds": Metric("Duration", format="seconds"),
    "round": Metric("Round", "Of the loop of writing, judging and learning.", "count"),
    "rounds": Metric("Rounds", "Of the loop of writing, judging and learning."),
    "beats_longest": Metric("Gain over “longest wins”", format="share"),
    "requirements": Metric("Required", "A threshold that the config asks for."),
}
