"""A /metrics page for Prometheus beside the route: see the README for what to install."""

from aiohttp import web
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from langgraph_ws import attach_websocket
from langgraph_ws.demo import demo_graph
from langgraph_ws.metrics import OpenTelemetryMetrics


def make_app(graph):
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)])

    async def scrape(request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def shut_down(app: web.Application) -> None:
        provider.shutdown()

    app = web.Application()
    attach_websocket(app, graph, metrics=OpenTelemetryMetrics(provider))
    app.router.add_get("/metrics", scrape)
    app.on_cleanup.append(shut_down)
    return app


if __name__ == "__main__":
    web.run_app(make_app(demo_graph()), host="127.0.0.1", port=8765)
