"""Every action of the app as a named endpoint: JSON in, JSON out, the JSON of the command line.

With ``gradio_client``::

    from gradio_client import Client, handle_file

    client = Client("http://127.0.0.1:7860")
    client.predict(request, api_name="/generate")

and, where the app was started with ``--mcp``, the same functions as tools of an MCP server. A file
comes as an upload (``handle_file("clip.mp4")``) or as a ``data:`` URI; a path or an address of the
server's is never read. A file goes out as a file that ``gradio_client`` downloads.
"""

from __future__ import annotations

import gradio as gr

from motion_app.host import ModelHost
from motion_app.ui.api.files import told
from motion_app.ui.api.jobs import JobEndpoints
from motion_app.ui.api.motions import MotionEndpoints
from motion_app.ui.api.pictures import PictureEndpoints


def register_api(host: ModelHost) -> None:
    """One endpoint for each action, under the method's own name; once, inside ``gr.Blocks``."""
    pictures, jobs, motions = PictureEndpoints(host), JobEndpoints(host), MotionEndpoints(host)
    for endpoint in (
        *(pictures.model, pictures.segment, pictures.find, pictures.verify, pictures.evaluate),
        *(jobs.generate, jobs.submit, jobs.train_motion),
        *(jobs.job, jobs.cancel, jobs.again, jobs.delete_job),
        *(motions.motions, motions.import_motion, motions.export_motion),
        *(motions.delete_motion, motions.restore_motion),
    ):
        gr.api(told(endpoint), api_name=endpoint.__name__, concurrency_limit=None)
