"""How to reach Kafka: brokers and settings, whose values are secrets until shown otherwise."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.errors import OutsideError, SensorError

HIDDEN = "***"

OURS = frozenset(
    "auto_offset_reset bootstrap_servers consumer_timeout_ms enable_auto_commit group_id "
    "group_instance_id key_deserializer loop max_poll_records value_deserializer "
    "auto_commit_interval_ms exclude_internal_topics api_version".split()
)
"""Settings of aiokafka that are decided here: changing them would break what the sensor promises.
"""

SSL = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")
"""Settings of ours, from which the `ssl_context` is made."""

SETTINGS = frozenset(
    "check_crcs client_id client_rack connections_max_idle_ms fetch_max_bytes fetch_max_wait_ms "
    "fetch_min_bytes heartbeat_interval_ms isolation_level max_partition_fetch_bytes "
    "max_poll_interval_ms metadata_max_age_ms partition_assignment_strategy rebalance_timeout_ms "
    "request_timeout_ms retry_backoff_ms sasl_kerberos_domain_name sasl_kerberos_service_name "
    "sasl_mechanism sasl_oauth_token_provider sasl_plain_password sasl_plain_username "
    "security_protocol session_timeout_ms ssl_context".split()
) | frozenset(SSL)
"""Settings that people may give."""

DEFAULTS: Mapping[str, Any] = {
    "isolation_level": "read_committed",  # what was aborted never happened
    "metadata_max_age_ms": 5_000,  # how soon new partitions, and another topic, are noticed
    "request_timeout_ms": 10_000,  # what takes longer is taken for lost; aiokafka waits 40 s
}


REACH = "see that the brokers are up, and that bootstrap_servers and options lead there"
"""What to do when no broker answers."""


class KafkaError(OutsideError):
    """Kafka cannot be reached, or does not do what it should; worth another try. Its text holds no
    secrets, nor does its traceback lead to them.
    """

    def anew(self) -> "KafkaError":
        """The same, without a traceback."""
        return KafkaError(self.message, hint=self.hint)


class Options:
    """Settings for aiokafka. Only names are ever shown."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = dict(values)

    def __repr__(self) -> str:
        return f"Options({', '.join(self._values)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def resolved(self) -> dict[str, Any]:
        """The values, `env:NAME` and `file:PATH` looked up. Raises SensorError naming the
        option.
        """
        return {name: _resolved(name, value) for name, value in self._values.items()}

    def scrubbed(self, text: str) -> str:
        """The text without any value that may be a secret."""
        for name, value in self._values.items():
            if "password" in name and isinstance(value, str):
                for secret in {value, _quietly(name, value)} - {""}:
                    text = text.replace(secret, HIDDEN)
        return text


class Access(msgspec.Struct, frozen=True):
    """The brokers to begin with, and the settings to reach them by."""

    servers: tuple[str, ...]
    options: Options


def settings_of(access: Access) -> dict[str, Any]:
    """Everything that aiokafka's consumer needs to reach the brokers."""
    from aiokafka.helpers import create_ssl_context

    found = {**DEFAULTS, **access.options.resolved(), "bootstrap_servers": list(access.servers)}
    files = {name.removeprefix("ssl_"): found.pop(name) for name in SSL if name in found}
    secure = str(found.get("security_protocol", "")).upper() in ("SSL", "SASL_SSL")
    if files or (secure and "ssl_context" not in found):
        found["ssl_context"] = create_ssl_context(**files)
    return found


def _resolved(name: str, value: object) -> object:
    kind, colon, place = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or kind not in ("env", "file"):
        return value
    found = os.environ.get(place) if kind == "env" else _content(Path(place))
    if found is None:
        what = "an environment variable that is not set"
        what = what if kind == "env" else "a file that cannot be read"
        raise SensorError(
            f"options: '{name}' names {what}",
            hint="set it where the daemon runs, and start it anew",
        )
    return found


def _content(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def _quietly(name: str, value: str) -> str:
    try:
        return str(_resolved(name, value))
    except SensorError:
        return ""
