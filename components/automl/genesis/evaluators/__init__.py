"""What Genesis can judge: tables by folds, lines of text by epochs."""
