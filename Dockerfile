FROM python:3.12-slim

ARG EXTRAS=heif,video
ARG VERSION=0.1.0

COPY . /src
RUN SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION pip install --no-cache-dir "/src[$EXTRAS]" && rm -r /src

ENV HOME=/tmp
WORKDIR /work
CMD ["yolos-predict", "--help"]
