"""An HTTP server in front of loaded models, with OpenAI's API."""
