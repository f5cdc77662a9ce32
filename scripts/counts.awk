# Adds up the result lines of `cargo test` and prints them as one.
/^test result: / {
  for (i = 1; i < NF; i++) {
    if ($(i + 1) ~ /^passed/) passed += $i
    if ($(i + 1) ~ /^failed/) failed += $i
    if ($(i + 1) ~ /^ignored/) skipped += $i
  }
}
END { printf "\ntests: %d passed, %d failed, %d skipped\n", passed, failed, skipped }
