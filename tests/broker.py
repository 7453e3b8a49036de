"""A real Kafka broker for tests: one Java process on this machine, from jars fetched once.

Its helpers block, each on an event loop of its own: asynchronous tests call them in a thread, as
in `await to_thread.run_sync(broker.produce, "flights", messages)`.
"""

import asyncio
import atexit
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition, admin, errors

VERSION = "4.1.0"
CLUSTER = "ZnJlc2hldC10ZXN0LWtmaw"
FETCH_S = 50  # with START_S below what pytest grants one test
START_S = 60
STOP_S = 15
ANSWER_MS = 10_000
PORTS = range(15_000, 32_000)
"""Below what the system hands out by itself: no connection can sit on the port of a broker that
restarts, nor can a client that retries connect to itself."""

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>freshet</groupId><artifactId>broker</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
<version>1.7.36</version></dependency></dependencies></project>
"""

SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=3000
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=2097152
"""

GUARDED = 'exec 3<&0; (read -r done <&3 || kill -9 $$) & exec "$@" 3<&- </dev/null'
"""The shell becomes Java; its child kills it when the pipe from the test process breaks, which it
does however that process ends."""

JVM = """
-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true
-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server=info
-Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS
""".split()


class MissingError(Exception):
    """Why no broker can run here."""


class Message(NamedTuple):
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def kafka_jars() -> Path:
    """The folder of Kafka's jars: whole where it is there, though many processes ask at once."""
    if shutil.which("java") is None:
        raise MissingError("java is not on the PATH")
    cache = Path(os.environ.get("FRESHET_CACHE") or Path.home() / ".cache/freshet").absolute()
    cache.mkdir(parents=True, exist_ok=True)
    jars = cache / f"kafka-{VERSION}"
    with (cache / f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as scratch:
                fetch(Path(scratch)).rename(jars)
    return jars


def fetch(scratch: Path) -> Path:
    """Lets Maven copy Kafka and all it needs into a folder below `scratch`."""
    if shutil.which("mvn") is None:
        raise MissingError("mvn, which fetches it once, is not on the PATH")
    (scratch / "pom.xml").write_text(POM)
    command = "mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=jars"
    try:
        done = subprocess.run(
            command.split(), cwd=scratch, check=False, capture_output=True, timeout=FETCH_S
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"mvn did not fetch it within {FETCH_S} s") from None
    if done.returncode != 0:
        raise MissingError(f"mvn could not fetch it: {done.stdout.decode().splitlines()[:1]}")
    return scratch / "jars"


def free_port() -> int:
    """A port nobody listens on, hardly ever the same for two that ask at once."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise MissingError(f"no free port in {PORTS}")


class Broker:
    """Topics and offsets last as long as its folder, and its address as long as the object,
    however often it stops, is killed and starts again. No Java process outlives this one.
    """

    def __init__(self, folder: Path) -> None:  # a folder that is there, and empty
        self._jars = kafka_jars()
        self._java: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.log = folder / "broker.log"
        self._settings = folder / "server.properties"
        ports = {"port": self.port, "controller": free_port()}
        self._settings.write_text(SETTINGS.format(folder=folder, **ports))
        self._format()

    def start(self) -> None:
        """Returns when the broker answers and all partitions have a leader."""
        assert self._java is None, "the broker runs already"
        guarded = ["sh", "-c", GUARDED, "sh", *self._command("kafka.Kafka", str(self._settings))]
        with self.log.open("ab") as log:
            self._java = subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._java.poll() is not None or time.monotonic() > deadline:
                self.kill()
                lines = self.log.read_text(errors="replace").splitlines()[-30:]
                raise RuntimeError("\n".join(["Kafka did not start; its log ends:", *lines]))
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it the way an operator would: asked first, and killed when it takes too long."""
        if self._java is not None:
            self._java.send_signal(signal.SIGCONT)
            self._java.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._java.wait(STOP_S)
            self.kill()

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        java, self._java = self._java, None
        atexit.unregister(self.kill)
        if java is not None:
            java.kill()
            java.communicate(b"done\n")  # its guard need not

    def restart(self) -> None:
        """Stops it and starts it, at the same address and with all its data."""
        self.stop()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections and answers nothing, as if its machine hung."""
        java = self._java
        assert java is not None, "the broker does not run"
        java.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            java.send_signal(signal.SIGCONT)

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> None:
        """Returns when each partition can be written to."""

        async def create(client: Any) -> None:
            topic = admin.NewTopic(name, partitions, 1, topic_configs=dict(config or {}))
            raise_first((await client.create_topics([topic])).topic_errors)
            await until(client, [name], set())

        self._ask(create)

    def delete_topic(self, name: str) -> None:
        """Returns when the topic is gone, so one of its name may be created."""

        async def delete(client: Any) -> None:
            raise_first((await client.delete_topics([name])).topic_error_codes)
            await until(client, [name], {errors.UnknownTopicOrPartitionError})

        self._ask(delete)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Truncates partitions: the given offset is the first that stays (−1: none does)."""
        wanted = {TopicPartition(topic, p): admin.RecordsToDelete(at) for p, at in before.items()}
        self._ask(lambda client: client.delete_records(wanted))

    def produce(
        self, topic: str, messages: Iterable[Message], compression: str | None = None
    ) -> list[tuple[int, int]]:
        """Writes messages in order; partition and offset of each."""

        async def send() -> list[tuple[int, int]]:
            settings = {"acks": "all", "compression_type": compression}
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, **settings) as producer:
                sent = [
                    await producer.send(topic, value, key, *rest) for key, value, *rest in messages
                ]
                return [(done.partition, done.offset) for done in await asyncio.gather(*sent)]

        return asyncio.run(send())

    def add_partitions(self, topic: str, total: int) -> None:
        """Returns when each partition, old or new, can be written to."""

        async def add(client: Any) -> None:
            wanted = {topic: admin.NewPartitions(total)}
            raise_first((await client.create_partitions(wanted)).topic_errors)
            await until(client, [topic], set())

        self._ask(add)

    def configure(self, topic: str, config: Mapping[str, str]) -> None:
        """Changes settings of a topic; they count for what is written from now on."""
        kind = admin.config_resource.ConfigResourceType.TOPIC
        wanted = admin.config_resource.ConfigResource(kind, topic, dict(config))
        self._ask(lambda client: client.alter_configs([wanted]))

    def transact(self, topic: str, messages: Iterable[Message], commits: bool) -> None:
        """Writes messages in one transaction, and commits or aborts it: one more offset each."""

        async def send() -> None:
            settings = {"bootstrap_servers": self.bootstrap, "transactional_id": f"tx-{topic}"}
            async with AIOKafkaProducer(**settings) as producer:
                await producer.begin_transaction()
                for key, value, *rest in messages:
                    await producer.send(topic, value, key, *rest)
                await producer.flush()
                await (producer.commit_transaction if commits else producer.abort_transaction)()

        asyncio.run(send())

    def _ask(self, question: Callable[[Any], Awaitable[object]]) -> None:
        async def ask() -> None:
            settings = {"bootstrap_servers": self.bootstrap, "request_timeout_ms": ANSWER_MS}
            client = admin.AIOKafkaAdminClient(**settings)
            try:
                await client.start()
                await question(client)
            finally:
                await client.close()

        asyncio.run(ask())

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass  # asked first, as the client makes noise of each failure
            self._ask(lambda client: until(client, None, set()))
        except (OSError, errors.KafkaError):
            return False
        return True

    def _command(self, *words: str) -> list[str]:
        return ["java", *JVM, "-cp", f"{self._jars}/*", *words]

    def _format(self) -> None:
        words = f"kafka.tools.StorageTool format -t {CLUSTER} -c".split()
        command = self._command(*words, str(self._settings))
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=START_S)
        if "UnsupportedClassVersionError" in done.stderr:
            raise MissingError("java is older than 17")
        if done.returncode != 0:
            raise RuntimeError(f"Kafka could not format its folder:\n{done.stdout}{done.stderr}")


def raise_first(answers: Iterable[Sequence[Any]]) -> None:
    """`answers` are (topic, error code, …)."""
    for topic, code, *_ in answers:
        if code:
            raise errors.for_code(code)(topic)


async def until(client: Any, topics: list[str] | None, wanted: set[type[Exception]]) -> None:
    """Waits until just these errors are said of the topics (all: None) and their partitions."""
    async with asyncio.timeout(ANSWER_MS / 1000):
        while wanted != {
            errors.for_code(each["error_code"])
            for topic in await client.describe_topics(topics)
            for each in (topic, *topic["partitions"])
            if each["error_code"]
        }:
            await asyncio.sleep(0.02)


_running: list[tuple[Broker, tempfile.TemporaryDirectory[str]]] = []


def shared() -> Broker:
    """The one broker of this process, started when somebody first asks. Raises MissingError."""
    if not _running:
        folder = tempfile.TemporaryDirectory(prefix="kafka-", ignore_cleanup_errors=True)
        broker = Broker(Path(folder.name))
        broker.start()
        atexit.register(end_shared)
        _running.append((broker, folder))
    return _running[0][0]


def end_shared() -> None:
    while _running:
        broker, folder = _running.pop()
        broker.stop()
        folder.cleanup()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One broker for all tests of this process, which are skipped where none can run. Each takes
    topics of names of its own, and leaves the broker running.
    """
    try:
        yield shared()
    except MissingError as missing:
        pytest.skip(f"no Kafka broker: {missing}")
    end_shared()
