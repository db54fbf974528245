# gpt-tf2 in a container: docs/serve.md, "In a container", shows how to build and run it.

# Any image with Python 3.10 or newer as `python3`, its venv and glibc.
ARG BASE=python:3.13-slim
FROM ${BASE}

# Extras of pyproject.toml: serve,gpu for an NVIDIA GPU, whose driver the host has.
ARG EXTRA=serve

# Editable, so that the packages are a layer that stays when only the code below has changed.
WORKDIR /opt/gpt-tf2
COPY pyproject.toml README.md LICENSE ./
COPY gpt_tf2/__init__.py gpt_tf2/
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --editable ".[${EXTRA}]"
COPY gpt_tf2 gpt_tf2
RUN /opt/venv/bin/python -m compileall -q gpt_tf2

# The user's number is fixed, for volumes. What it writes goes to /data, or to /tmp: all else may be read-only.
RUN groupadd --gid 10001 gpt-tf2 \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --no-log-init --shell /usr/sbin/nologin gpt-tf2 \
    && install --directory --owner=10001 --group=10001 /data

ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/data/cache
USER 10001:10001
WORKDIR /data
EXPOSE 8000
# Until it answers it may have to download and convert a model: ten minutes at 1558M.
HEALTHCHECK --start-period=30m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["gpt-tf2"]
# Needs GPT_TF2_API_KEY, as other machines can reach it.
CMD ["serve", "124M", "--host", "0.0.0.0"]
