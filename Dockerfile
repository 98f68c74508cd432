# The app on a machine of one's own. With a GPU:
#   docker build --tag motion-app .
#   docker run --gpus all --publish 7860:7860 --volume motion-app:/data motion-app
# and without one the same, less --gpus. PyTorch brings its own CUDA; the host needs NVIDIA's driver
# and container toolkit.
FROM python:3.12-slim

# Not as root: files of strangers are read here.
RUN useradd --create-home --uid 1000 app \
 && mkdir /app /data && chown app:app /app /data

WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

USER app
COPY --chown=app:app . .

# Jobs, studies, motions and downloaded models outlive the container; what is uploaded does not.
ENV HF_HOME=/data/huggingface \
    MOTION_APP_OUTPUTS=/data/outputs \
    MOTION_APP_MOTIONS='["/data/motions"]' \
    MOTION_APP_CACHE=/tmp/motion-app \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7860

HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"]
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0"]
