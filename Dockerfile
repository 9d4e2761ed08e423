# One image for the server and every command.
#
#   docker build --tag heliograph:local .
#
# The version of Python that the tests run with.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VAR_DIR=/var/lib/heliograph

# A fixed number, because files in volumes are given to it.
RUN useradd --system --uid 10001 --user-group --home-dir /nonexistent --no-create-home heliograph
# A new volume that is mounted here gets this owner and mode.
RUN install --directory --owner 10001 --group 10001 --mode 750 /var/lib/heliograph

WORKDIR /app

COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt

# By name, so that nothing comes in that nobody meant to, such as var/ with its secrets.
COPY manage.py ./
COPY project/ project/
COPY api/ api/
COPY dashboard/ dashboard/
COPY upstreams/ upstreams/
COPY realtime/ realtime/
# With a folder for data that is gone afterwards: a secret made here must not stay in a layer.
RUN VAR_DIR=/tmp/build python manage.py collectstatic --no-input --verbosity 0 && rm -r /tmp/build
RUN python -m compileall -q /app
# Whatever umask the files were checked out with, the user below can read them.
RUN chmod -R a+rX /app

USER 10001:10001
ENV HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000

HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=3)"]

CMD ["python", "manage.py", "serve"]
