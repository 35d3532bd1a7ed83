"""A Django project in one file, served as ASGI, with a worker inside.

Make the tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    python django_app.py
    uvicorn --lifespan=on django_app:application

Place an order, and ask what became of the job that sends its receipt:

    curl -d product=tea http://127.0.0.1:8000/orders
    curl http://127.0.0.1:8000/jobs/1

Place one that is not paid for. Neither the order nor its job exists afterwards:

    curl -d product=tea -d card=expired http://127.0.0.1:8000/orders

Django knows no lifespan: it refuses that part of ASGI. So `application`, at the end, stands around
Django's and takes it over. (With `--lifespan=on` uvicorn does not start where that fails; by itself it
would serve without.) Ctrl-C or SIGTERM stops it: uvicorn answers the requests that it has, then it
ends the lifespan, and there the worker drains.

For a worker that is a process of its own, serve Django's application as it is, and start, in this
directory:

    trio-queue --app=django_app.queue worker --concurrency=10
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import close_old_connections, connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST
from psycopg.conninfo import conninfo_to_dict

import trio_queue
from trio_queue.exceptions import JobNotFound

logging.basicConfig(level=logging.INFO)

database = conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": database.pop("dbname"),
            "OPTIONS": database,
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for an example",
)
django.setup()

queue = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


class Order(models.Model):
    """What somebody ordered."""

    product: models.CharField[str, str] = models.CharField(max_length=100)
    receipt_sent: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    class Meta:
        """Where it belongs: a project of many files has this in an application of its own."""

        app_label = "shop"

    def __str__(self) -> str:
        """What a reader of a log wants to see of it."""
        return self.product


# -- the job ---------------------------------------------------------------------------------------


def with_closed_connections(
    call_next: Callable[[], Any], _context: trio_queue.JobContext, _worker: Any
) -> Any:
    """Close Django's connection of the job's thread, as Django does it after a request."""
    close_old_connections()
    try:
        return call_next()
    finally:
        close_old_connections()


@queue.task(name="send_receipt", task_middleware=[with_closed_connections])
def send_receipt(order_id: int) -> None:
    """A sync task, which may use Django's models: the worker runs it in a thread."""
    Order.objects.filter(pk=order_id).update(receipt_sent=True)


# -- the requests ----------------------------------------------------------------------------------


class PaymentError(Exception):
    """The card is not good."""


def charge(card: str) -> None:
    """Your payment service stands here."""
    if card == "expired":
        raise PaymentError("the card has expired")


@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    """Save an order, and defer its receipt, in one transaction."""
    try:
        with transaction.atomic():
            order = Order.objects.create(product=request.POST.get("product", ""))
            # The psycopg connection beneath, on which the transaction is open.
            job_id = send_receipt.configure(connection=connection.connection).defer(
                order_id=order.pk
            )
            charge(request.POST.get("card", ""))
    except PaymentError as error:
        return JsonResponse({"error": str(error)}, status=402)
    return JsonResponse({"order": order.pk, "job": job_id}, status=202)


async def show_job(_: HttpRequest, job_id: int) -> JsonResponse:
    """What became of a job."""
    try:
        status = await queue.job_manager.get_job_status_async(job_id)
    except JobNotFound as error:
        return JsonResponse({"error": str(error)}, status=404)
    return JsonResponse({"status": status.value})


urlpatterns = [path("orders", place_order), path("jobs/<int:job_id>", show_job)]


# -- the application -------------------------------------------------------------------------------

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

django_application = get_asgi_application()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Django's application, and the lifespan that it has not."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    else:
        await django_application(scope, receive, send)


async def live(receive: Receive, send: Send) -> None:
    """Run a worker as long as the application is served."""
    await receive()  # the server has started
    async with queue.open_async():
        worker = asyncio.create_task(
            queue.run_worker_async(
                concurrency=10,
                install_signal_handlers=False,  # uvicorn hears the signals
                shutdown_graceful_timeout=20,
            )
        )
        worker.add_done_callback(stop_server)
        await send({"type": "lifespan.startup.complete"})
        await receive()  # the server stops
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker  # until every job has ended
    await send({"type": "lifespan.shutdown.complete"})


def stop_server(worker: asyncio.Task[None]) -> None:
    """Let a worker that breaks take the server along, rather than serve without one."""
    if not worker.cancelled():
        signal.raise_signal(signal.SIGTERM)


def make_tables() -> None:
    """In a project of many files: `manage.py migrate`, and `trio-queue schema --apply`."""
    queue.schema_manager.apply_schema()
    with connection.schema_editor() as editor:
        editor.create_model(Order)


if __name__ == "__main__":
    make_tables()
