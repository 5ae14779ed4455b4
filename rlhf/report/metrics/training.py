"""What supervised fine-tuning, reward models and DPO log and find."""

from rlhf.report.metrics.metric import Metric

SUPERVISED = {
    "loss": Metric("Training loss", "What the optimiser lowers, on the data it learns from."),
    "train_loss": Metric("Training loss, mean", "Mean over the whole of training."),
    "eval_loss": Metric("Held-out loss", "The same loss on data the model has not seen. Lower is better."),
    "eval_loss_before": Metric("Held-out loss before", "The held-out loss before any training."),
    "perplexity": Metric(
        "Perplexity",
        "Between how many tokens the model hesitates on average, on held-out data. Lower is better.",
    ),
    "perplexity_before": Metric("Perplexity before", "The perplexity before any training."),
    "mean_token_accuracy": Metric(
        "Token accuracy", "How often the most likely next token is the right one, in training.", "share"
    ),
    "eval_mean_token_accuracy": Metric(
        "Held-out token accuracy", "How often the most likely next token is the right one.", "share"
    ),
    "token_accuracy": Metric(
        "Held-out token accuracy", "How often the most likely next token is the right one.", "share"
    ),
    "entropy": Metric("Token entropy", "How undecided the model is about the next token.", unit="nats"),
    "eval_entropy": Metric("Held-out token entropy", "The same on held-out data.", unit="nats"),
}

REWARD_MODEL = {
    "accuracy": Metric(
        "Reward-model accuracy",
        "Share of judged pairs in which the preferred answer gets the higher score.",
        "share",
    ),
    "eval_accuracy": Metric("Held-out accuracy", "The same share on pairs the model has not seen.", "share"),
    "accuracy_longest": Metric(
        "Accuracy of “longest wins”",
        "What always preferring the longer answer would score on the same pairs: the bar to clear.",
        "share",
    ),
    "margin": Metric(
        "Score margin", "Mean difference between the scores of preferred and rejected answers.", format="score"
    ),
    "eval_margin": Metric(
        "Held-out score margin", "The same difference on pairs the model has not seen.", format="score"
    ),
    "mean_reward": Metric("Mean score", "Mean of all scores the reward model gives in a batch.", format="score"),
    "min_reward": Metric("Lowest score", "Lowest score in a batch.", format="score"),
    "max_reward": Metric("Highest score", "Highest score in a batch.", format="score"),
    "num_train": Metric("Training records", format="count"),
    "num_dev": Metric("Held-out records", format="count"),
    "num_pairs": Metric("Judged pairs", "Pairs of answers that people put in an order.", "count"),
    "num_dev_pairs": Metric("Held-out pairs", "Not trained on.", "count"),
    "num_dev_prompts": Metric("Held-out prompts", "Not trained on.", "count"),
    "score_offset": Metric(
        "Score offset", "Taken off every score, so that what the reference writes scores 0 on average.", "score"
    ),
    "centred_on": Metric("Centred on", "The model whose answers score 0 on average."),
    "score_std": Metric("Spread of scores", "Standard deviation of all scores.", "score"),
    "score_mean": Metric("Mean score", "Of all completions.", "score"),
    "pair_distance": Metric("Distance within a pair", "Mean size of the difference between two scores.", "score"),
    "ensemble_std": Metric("Disagreement of members", "Standard deviation of an ensemble's scores, mean over answers."),
    "num_train_ratings": Metric("Training ratings", "Ratings that were learned from.", "count"),
    "num_contradictions": Metric("Contradictions", "Pairs that were judged both ways.", "count"),
    "num_without_order": Metric(
        "Rankings without an order", "All answers were found equally good; they were left out.", "count"
    ),
    "num_lone_ratings": Metric(
        "Ratings that stand alone", "Their annotator rated no other answer to the prompt; they were left out.", "count"
    ),
    "num_equal_pairs": Metric(
        "Pairs of equal texts", "The model reads the two as the same; they were left out.", "count"
    ),
    "num_weightless": Metric(
        "Rankings without weight", "By annotators who agree with nobody; they were left out.", "count"
    ),
    "annotators": Metric("Annotators", "How far each was trusted."),
    "weight": Metric("Weight", "What a judgement counts; 1 is the mean."),
    "num_judgements": Metric("Judgements", format="count"),
    "rating_levels": Metric("Levels of ratings", "The ratings that people gave, lowest first."),
    "thresholds": Metric("Thresholds", "The scores at which one level of rating passes into the next."),
    "rating_mean": Metric("Mean rating", "Of the training data."),
    "rating_std": Metric("Spread of ratings", "Standard deviation; a score of 1 is so many points of rating."),
    "rating_correlation": Metric(
        "Score by rating", "Rank correlation of the model’s scores with people’s ratings; 1 is the same order."
    ),
    "loss_kind": Metric("Loss", "What the reward model was trained to minimise."),
}

DPO = {
    "rewards/chosen": Metric(
        "Implied reward, preferred", "beta times the log-ratio of policy to reference, on preferred answers.", "score"
    ),
    "rewards/rejected": Metric("Implied reward, rejected", "The same on rejected answers.", "score"),
    "rewards/accuracies": Metric(
        "Accuracy of the implied reward", "Share of pairs in which the preferred answer has gained more.", "share"
    ),
    "rewards/margins": Metric("Margin of the implied reward", "Preferred less rejected, mean over pairs.", "score"),
    "logps/chosen": Metric(
        "Log-probability, preferred", "Of a whole answer. It may fall while DPO works.", unit="nats"
    ),
    "logps/rejected": Metric("Log-probability, rejected", "Of a whole answer.", unit="nats"),
    "logits/chosen": Metric("Mean logit, preferred", "Over tokens and vocabulary."),
    "logits/rejected": Metric("Mean logit, rejected", "Over tokens and vocabulary."),
    "aux_loss": Metric("Load-balancing loss", "Of a mixture of experts."),
}
