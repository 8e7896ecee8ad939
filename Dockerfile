# Runs the commands without installing anything else: what a release built is installed from dist/.
#   python -m build && docker build -t dpnn-bridge .
#   docker run --rm --network none -v "$PWD:/data" -w /data dpnn-bridge convert model.t7 model.pt
FROM python:3.13-slim
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(echo /tmp/*.whl)[lua,onnx,safetensors]" \
    && rm /tmp/*.whl
USER nobody
ENTRYPOINT ["python", "-m", "dpnn_bridge"]
CMD ["--help"]
