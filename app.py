"""Runs the page as a Hugging Face Space; docs/page.md explains how to create one. Elsewhere, use yolos-page."""

from yolos_jax.errors import clear_errors
from yolos_jax.programs.page import PORT, from_environment, host_of_a_space
from yolos_jax.tools.page.gradio_page import serve

if __name__ == "__main__":
    with clear_errors():
        serve(from_environment(), host_of_a_space(), PORT, 20)
