"""The programs: flags to library calls. They are installed as yolos-train, yolos-eval and so on."""
