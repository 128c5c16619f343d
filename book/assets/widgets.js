// Runs between require.js and the widget manager, on pages that have widgets.
{
  const files = new URL(`${document.documentElement.dataset.content_root}_static/`, document.location).href;
  window.require.config({
    paths: {
      "@jupyter-widgets": `${files}html-manager`, // where the manager's modules look for their fonts
      "@jupyter-widgets/html-manager/dist": `${files}html-manager`,
      anywidget: `${files}anywidget`,
    },
  });

  // HTML and label widgets typeset their text through MathJax 2, the page has MathJax 3.
  document.addEventListener("DOMContentLoaded", () => {
    if (window.MathJax && !window.MathJax.Hub) {
      window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
    }
  });
}
