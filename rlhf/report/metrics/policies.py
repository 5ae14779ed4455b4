"""What PPO and RLOO log and find."""

from rlhf.report.metrics.metric import Metric

PPO = {
    "score_before": Metric("Score before", "Mean training reward on held-out prompts before training.", format="score"),
    "score_after": Metric("Score after", "Mean training reward on held-out prompts after it.", format="score"),
    "kl": Metric(
        "KL divergence",
        "How far the policy has moved from its reference, per answer. Training’s figure and the evaluation’s differ, "
        "since prompts, sampling temperature and samples do.",
        unit="nats",
    ),
    "objective/scores": Metric(
        "Score", "Mean training reward of the sampled answers. Higher is better.", format="score"
    ),
    "objective/score_std": Metric("Spread of scores", "Standard deviation of the scores within a batch."),
    "objective/kl": Metric(
        "KL divergence", "How far the policy has moved from its reference, per answer.", unit="nats"
    ),
    "objective/kl_se": Metric("Standard error of the divergence", "Of its estimate from one batch.", unit="nats"),
    "objective/shaped_scores": Metric("Score as it is paid", "After normalisation and clipping.", format="score"),
    "objective/scorer_std": Metric("Spread of the scorers", "Of the scorer that tells a batch apart the most."),
    "objective/score_max_abs": Metric("Largest score", "In size, in a batch."),
    "objective/score_length_corr": Metric(
        "Score by length", "Rank correlation of score and length: near 1, length is what pays."
    ),
    "objective/score_ref_corr": Metric(
        "Score by likelihood", "Rank correlation of score and the reference's log-probs: near -1, gibberish pays."
    ),
    "objective/score_ensemble_std": Metric(
        "Disagreement of reward models", "Standard deviation over an ensemble, mean over answers."
    ),
    "objective/judge": Metric("Judge", "Mean score by the held-out judge, which training does not see.", "score"),
    "objective/judge_se": Metric("Standard error of the judge", "Of its mean over held-out prompts."),
    "objective/judge_corr": Metric("Score and judge", "Rank correlation of the two on held-out answers."),
    "completions/distinct_2": Metric("Distinct token pairs", "As a share of all in a batch.", "share"),
    "completions/repeated_4grams": Metric("Repeated 4-grams", "Share that stood in the same answer before.", "share"),
    "loss/ptx_avg": Metric("SFT loss beside PPO's", "On demonstrations.", unit="nats"),
    "policy/kl_avg": Metric("Divergence during the update", "From the reference, per answer.", unit="nats"),
    "policy/num_steps": Metric("Optimiser steps of an update", format="count"),
    "monitor/alarms": Metric("Alarms", "How many are on.", format="count"),
    "objective/kl_coef": Metric("KL coefficient", "What one nat of divergence costs."),
    "objective/rlhf_reward": Metric("Score minus KL penalty", "What PPO maximises."),
    "objective/non_score_reward": Metric("KL penalty", "The part of the reward that is the price of divergence."),
    "objective/entropy": Metric("Sequence entropy", "Surprise of the sampled answers, per answer.", unit="nats"),
    "policy/entropy_avg": Metric("Token entropy", "How undecided the policy is about the next token.", unit="nats"),
    "policy/approxkl_avg": Metric("Step size", "Approximate KL between the policies before and after an update."),
    "policy/clipfrac_avg": Metric("Policy clip fraction", "Share of tokens whose update was clipped.", "share"),
    "val/clipfrac_avg": Metric("Value clip fraction", "Share of tokens whose value update was clipped.", "share"),
    "val/ratio": Metric("Probability ratio", "Mean ratio of new to old probabilities; stays near 1."),
    "val/ratio_var": Metric("Variance of the ratio", "Spread of that ratio over the steps of an update."),
    "val/explained_variance": Metric("Explained variance", "How well the critic foresees returns; 1 is perfect."),
    "val/mean": Metric("Mean value", "Mean of the critic's estimates."),
    "val/num_eos_tokens": Metric("Finished answers", "Number of end tokens in a batch.", "count"),
    "loss/policy_avg": Metric("Policy loss"),
    "loss/value_avg": Metric("Value loss"),
    "policy/grad_norm": Metric("Policy gradient norm", "Before clipping."),
    "value/grad_norm": Metric("Value gradient norm", "Before clipping."),
    "completions/mean_length": Metric("Answer length", "Mean length of the sampled answers.", unit="tokens"),
    "completions/eos_share": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "episode": Metric("Episodes", "Answers sampled so far.", "count"),
    "length_before": Metric("Answer length before", "Mean length on held-out prompts.", unit="tokens"),
    "length_after": Metric("Answer length after", "The same after training.", unit="tokens"),
    "eos_share_before": Metric("Answers that ended by themselves, before", "Before training.", "share"),
    "eos_share_after": Metric("Answers that end by themselves", "Share with an end token in time.", "share"),
    "num_updates": Metric("Updates", format="count"),
    "num_episodes": Metric("Episodes", "Answers sampled in training.", "count"),
    "sampling/sampling_logp_difference/mean": Metric(
        "Sampler’s gap, mean",
        "How far the sampler’s log-probabilities are from those of the model that is trained; rounding gives a little.",
        unit="nats per token",
    ),
    "sampling/sampling_logp_difference/max": Metric(
        "Sampler’s gap, largest", "The same at the token where it is largest.", unit="nats"
    ),
}

RLOO = {
    "reward": Metric("Reward", "Mean training reward of the sampled answers, without the KL penalty.", "score"),
    "reward_std": Metric("Spread of rewards", "Standard deviation of the rewards within a batch."),
    "frac_reward_zero_std": Metric(
        "Prompts without a difference",
        "Share of prompts all of whose answers got the same: nothing is learned there.",
        "share",
    ),
    "completions/min_length": Metric("Shortest answer", "In a batch.", unit="tokens"),
    "completions/max_length": Metric("Longest answer", "In a batch.", unit="tokens"),
    "completions/clipped_ratio": Metric("Answers cut off", "Share that did not end in time.", "share"),
    "completions/mean_terminated_length": Metric(
        "Answer length, ended", "Mean length of the answers that ended by themselves.", unit="tokens"
    ),
    "completions/min_terminated_length": Metric("Shortest answer, ended", "In a batch.", unit="tokens"),
    "completions/max_terminated_length": Metric("Longest answer, ended", "In a batch.", unit="tokens"),
    "clip_ratio/region_mean": Metric("Clip fraction", "Share of answers whose update was clipped.", "share"),
    "clip_ratio/low_mean": Metric("Clip fraction, below", "Clipped as less likely than before.", "share"),
    "clip_ratio/low_min": Metric("Clip fraction, below, lowest", "Over processes.", "share"),
    "clip_ratio/high_mean": Metric("Clip fraction, above", "Clipped as more likely than before.", "share"),
    "clip_ratio/high_max": Metric("Clip fraction, above, highest", "Over processes.", "share"),
    "step_time": Metric("Time of a step", format="seconds"),
}
