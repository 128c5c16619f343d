"""A page of widgets without a kernel, for tests and benchmarks in a browser."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from ipywidgets.widgets.widget import _remove_buffers


def widget_page(views: dict[str, Any]) -> str:
    """HTML of the named widgets over models that only hold the saved state; `window.models[name]` are the models.

    `window.ready` tells that all are drawn, `window.drawn[name]` how many milliseconds that took, from before the
    module is loaded to the first frame that shows the widget.
    """
    models = []
    for name, view in views.items():
        state, paths, buffers = cast(Any, _remove_buffers(view.get_state()))
        encoded = [base64.b64encode(bytes(buffer)).decode() for buffer in buffers]
        models.append({"name": name, "state": state | {"layout": None}, "paths": paths, "buffers": encoded})
    data = json.dumps(models).replace("<", "\\u003c")
    return f"""<!doctype html><meta charset="utf-8"><body><script type="application/json" id="data">{data}</script>
<script type="module">
window.models = {{}};
window.drawn = {{}};
const frame = () => new Promise(requestAnimationFrame);
for (const {{ name, state, paths, buffers }} of JSON.parse(document.getElementById("data").textContent)) {{
  paths.forEach((path, i) => {{
    const bytes = Uint8Array.from(atob(buffers[i]), (c) => c.charCodeAt(0));
    path.slice(0, -1).reduce((at, key) => at[key], state)[path.at(-1)] = new DataView(bytes.buffer);
  }});
  const listeners = {{}};
  const model = {{
    sent: [], get: (key) => state[key],
    on: (event, f) => (listeners[event] ??= []).push(f),
    off: (event, f) => {{ listeners[event] = (listeners[event] ?? []).filter((g) => g !== f); }},
    send: (message) => {{ model.sent.push(message); }},
    emit: (event, ...values) => (listeners[event] ?? []).forEach((f) => f(...values)),
    left: () => Object.values(listeners).flat().length,
  }};
  const began = performance.now();
  document.head.append(Object.assign(document.createElement("style"), {{ textContent: state._css }}));
  const el = document.body.appendChild(Object.assign(document.createElement("div"), {{ id: name }}));
  const module = await import(URL.createObjectURL(new Blob([state._esm], {{ type: "text/javascript" }})));
  model.leave = module.default.render({{ model, el }});
  window.models[name] = model;
  await frame().then(frame).then(frame); // laid out in the first; drawn to the width it has got; on the screen
  window.drawn[name] = performance.now() - began;
}}
window.ready = true;
</script>"""
