"""Tells people that a night failed, through an Airflow connection: an e-mail, or JSON to a webhook."""

from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseHook, BaseNotifier, Context, conf

from bc_tasks.config import ScheduleConfig

TIMEOUT_SECONDS = 30


def failure_notifiers(schedule: ScheduleConfig) -> list["FailureNotifier"]:
    """Return whom Airflow calls when a night has failed: nobody, or one notifier."""
    if not schedule.failure_conn_id:
        return []
    return [FailureNotifier(schedule.failure_conn_id, schedule.failure_recipients)]


class FailureNotifier(BaseNotifier):
    """Sends the run's note and its address: no ids of images or patients, no log lines.

    A connection of type `smtp` sends an e-mail to the recipients. Any other gets `{"text": ...}` by POST, which Slack,
    Mattermost and most chat programs take: its host is the webhook's address with https://, and where the end of that
    address is secret, its password is that end.
    """

    def __init__(self, conn_id: str, recipients: Sequence[str]) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.recipients = list(recipients)

    def notify(self, context: Context) -> None:
        """Send one message for the failed run."""
        title, text, url = message(context)
        connection = BaseHook.get_connection(self.conn_id)
        if connection.conn_type == "smtp":
            self._mail(title, text, url)
        else:
            self._post(f"{title}\n{text}\n{url}", endpoint=connection.password)

    def _mail(self, title: str, text: str, url: str) -> None:
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        body = f'<p>{escape(text)}</p><p><a href="{escape(url)}">{escape(url)}</a></p>'
        with SmtpHook(smtp_conn_id=self.conn_id) as hook:
            hook.send_email_smtp(to=self.recipients, subject=title, html_content=body)

    def _post(self, text: str, *, endpoint: str | None) -> None:
        from airflow.providers.http.hooks.http import HttpHook

        hook = HttpHook(method="POST", http_conn_id=self.conn_id)
        hook.run(endpoint, json={"text": text}, extra_options={"timeout": TIMEOUT_SECONDS})


def message(context: Any) -> tuple[str, str, str]:
    """Return the title, the text and the address of a failed run's message."""
    dag, run_id = context["dag"], context["run_id"]
    note = getattr(context.get("dag_run"), "note", None)
    base_url = conf.get("api", "base_url", fallback="").rstrip("/")
    return (
        f"{dag.dag_id} failed: {run_id}",
        note or f"Reason: {context.get('reason', 'unknown')}.",
        f"{base_url}/dags/{quote(dag.dag_id)}/runs/{quote(run_id)}",
    )
