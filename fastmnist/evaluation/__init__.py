"""What a person looks at: reports on models, and explanations of what would run. Nothing here imports scikit-learn."""
