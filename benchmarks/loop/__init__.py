"""What simulated annotators, weights of reliability, active selection and rankings of several do to a reward model."""
