#!/bin/sh
# A worker as a shell script: it runs the function `shout`. Needs curl and jq.
#
# DURABLE_URL is the server; DURABLE_TOKEN is an access token of role worker, where it wants one.
server=${DURABLE_URL:-http://127.0.0.1:8080}

post() { # PATH JSON
    curl --silent --show-error --fail-with-body --max-time 90 \
        ${DURABLE_TOKEN:+--header "Authorization: Bearer $DURABLE_TOKEN"} \
        --header 'Content-Type: application/json' --data "$2" "$server$1"
}

while true; do
    claimed=$(post /tasks/claim '{"functions": ["shout"], "worker": "shell", "wait_ms": 20000}') || {
        sleep 1
        continue
    }
    task=$(printf '%s' "$claimed" | jq -c '.items[0] // empty')
    [ -n "$task" ] || continue
    id=$(printf '%s' "$task" | jq -r .id)

    # The work itself.
    if result=$(printf '%s' "$task" | jq -er '.args[0]' | tr '[:lower:]' '[:upper:]'); then
        post "/tasks/$id/complete" "$(jq -n --arg result "$result" '{$result}')"
    else
        post "/tasks/$id/fail" '{"type": "ValueError", "message": "there is nothing to shout"}'
    fi
    echo
done
