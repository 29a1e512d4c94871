# The server with the packaged model, for CPUs:
#
#   docker build -t antiphon --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
#   docker run --rm -p 8000:8000 antiphon
#
# Options of `antiphon serve` come after the image's name; checkpoints are mounted: -v FOLDER:/models:ro.

FROM python:3.12.12-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /opt/antiphon
RUN /opt/antiphon/bin/pip install --no-cache-dir --constraint requirements/lock.txt '.[serve,heif,talk]'

FROM python:3.12.12-slim-bookworm
RUN useradd --create-home --uid 10001 antiphon
COPY --from=build /opt/antiphon /opt/antiphon
ENV PATH=/opt/antiphon/bin:$PATH
USER antiphon
WORKDIR /home/antiphon
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["antiphon", "serve", "--host", "0.0.0.0"]
