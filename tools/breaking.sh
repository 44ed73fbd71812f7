#!/bin/sh
# Compare the protos with the previous state of main: what is published if we are ahead of it, else the last commit's parent.
set -eu

head=$(git rev-parse --quiet --verify HEAD || true)
base=$(git rev-parse --quiet --verify origin/main || true)
if [ -z "$base" ] || [ "$base" = "$head" ]; then
    base=$(git rev-parse --quiet --verify HEAD~1 || true)
fi
if [ -z "$base" ] || ! git cat-file -e "$base:protos" 2>/dev/null; then
    echo "breaking: no earlier protos to compare with"
    exit 0
fi

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git archive "$base" protos buf.yaml | tar -x -C "$before" -f -
buf breaking --against "$before"
echo "breaking: compatible with $(git rev-parse --short "$base")"
