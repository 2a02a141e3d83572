#!/bin/sh
# render.sh TITLE TEMPLATES OUT: fills in the placeholders.
set -eu
title=$1 templates=$2 out=$3
mkdir -p "$out"
for page in "$templates"/*; do
  sed -e "s|@TITLE@|$title|g" -e "s|@DATE@|$(date -u +%F)|g" "$page" > "$out/${page##*/}"
done
