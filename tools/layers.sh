#!/bin/sh
# Run the import linter, which refuses contracts about modules that do not exist yet, once all of them do.
set -eu
for service in identity ipam registry session; do
    for layer in __main__ servicer usecases store domain; do
        ls -d services/guardhouse_services/$service/$layer* >/dev/null 2>&1 || { echo "layers: waiting for $service.$layer"; exit 0; }
    done
done
for module in decisions durations errors ids; do
    ls -d clients/guardhouse/$module* >/dev/null 2>&1 || { echo "layers: waiting for $module"; exit 0; }
done
"$@"
