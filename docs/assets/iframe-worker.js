/* Browsers start no worker from a file:// page. The search's worker runs in a hidden frame there. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.frame = frame;
      this.receive = (event) => {
        if (event.source !== frame.contentWindow) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      };
      addEventListener("message", this.receive);
      this.ready = new Promise((resolve) => (frame.onload = resolve));
      const page = frame.contentDocument;
      page.open();
      // What the worker posts reaches the page, with the frame as its source.
      page.write(
        "<script>postMessage = (data) => parent.dispatchEvent(" +
          'new MessageEvent("message", { data, source: window }))</script>' +
          `<script src="${url}"></script>`,
      );
      page.close();
    }

    postMessage(data) {
      this.ready.then(() =>
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })),
      );
    }

    terminate() {
      removeEventListener("message", this.receive);
      this.frame.remove();
    }
  };
}
