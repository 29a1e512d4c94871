#!/bin/sh
# One question to a server by curl: what was heard, the reply's text, and its sound in a file.
#
#   antiphon serve
#   sh examples/curl.sh
#   sh examples/curl.sh http://127.0.0.1:8000 reply.mp3
set -eu

server=${1:-http://127.0.0.1:8000}
out=${2:-reply.mp3}
demo=$(dirname "$0")/../runtime/assets/demo
model=$(curl -sSf "$server/v1/models" | sed 's/.*"id":"\([^"]*\)".*/\1/')

printf 'heard: '
curl -sSf "$server/v1/audio/transcriptions" \
    -F file=@"$demo/question.wav" -F model="$model" -F response_format=text

# The body goes through a pipe: pictures and sound are too long for a command line.
printf 'reply: '
{
    printf '{"model": "%s", "messages": [{"role": "user", "content": [' "$model"
    printf '{"type": "image_url", "image_url": {"url": "data:image/png;base64,'
    base64 -w 0 "$demo/shapes.png"
    printf '"}}, {"type": "input_audio", "input_audio": {"format": "wav", "data": "'
    base64 -w 0 "$demo/question.wav"
    printf '"}}]}]}'
} | curl -sSf "$server/v1/chat/completions" -H 'Content-Type: application/json' --data-binary @- |
    sed 's/.*"content":"\([^"]*\)".*/\1/'
echo

curl -sSf "$server/v1/audio/speech" -H 'Content-Type: application/json' -o "$out" \
    -d '{"model": "'"$model"'", "voice": "alloy", "input": "There are three shapes.", "response_format": "mp3"}'
echo "sound: $out"
