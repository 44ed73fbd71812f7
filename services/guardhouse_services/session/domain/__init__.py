"""The things of session and the rules on them. The decisions are guardhouse.decisions."""
