"""How far judgements can be trusted: agreement, bias, drift, and what each annotator is worth."""
