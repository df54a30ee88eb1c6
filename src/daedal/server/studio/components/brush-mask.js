// <brush-mask>: a picture to paint a mask on. With the pointer, or with the arrow keys and the space
// bar. `mask()` is a PNG of the picture's size, transparent where it is to be painted anew.

import { h, field } from "../dom.js";

class BrushMask extends HTMLElement {
  async setup(blob) {
    const picture = await createImageBitmap(blob);
    this.width = picture.width;
    this.height = picture.height;
    const scale = Math.max(
      1,
      Math.floor(Math.min(512, innerWidth - 96) / Math.max(picture.width, picture.height)),
    );
    const size = { width: picture.width * scale, height: picture.height * scale };
    this.scale = scale;
    const shown = h("canvas", size);
    const brush = shown.getContext("2d");
    brush.imageSmoothingEnabled = false;
    brush.drawImage(picture, 0, 0, size.width, size.height);
    this.drawn = h("canvas", {
      ...size,
      class: "strokes",
      tabindex: 0,
      role: "application",
      "aria-label":
        "Mask: drag to mark what is painted anew; arrow keys move the brush, space marks",
    });
    this.pen = this.drawn.getContext("2d", { willReadFrequently: true });
    this.at = [size.width / 2, size.height / 2];
    this.cursor = h("span", { class: "cursor", "aria-hidden": "true" });
    this.size = h("input", {
      type: "range",
      min: 2,
      max: 50,
      value: 14,
      oninput: () => this.moved(),
    });
    this.listen();
    const clear = h(
      "button",
      { type: "button", class: "small", onclick: () => this.clear() },
      "Clear the mask",
    );
    this.append(
      h("div", { class: "board" }, shown, this.drawn, this.cursor),
      h("div", { class: "row" }, field("Brush", this.size), clear),
    );
    this.moved();
    return this;
  }

  get radius() {
    return (this.size.value / 100) * this.drawn.width;
  }

  listen() {
    const place = (event) => {
      const box = this.drawn.getBoundingClientRect();
      return [
        ((event.clientX - box.left) / box.width) * this.drawn.width,
        ((event.clientY - box.top) / box.height) * this.drawn.height,
      ];
    };
    this.drawn.addEventListener("pointerdown", (event) => {
      this.drawn.setPointerCapture(event.pointerId);
      this.at = place(event);
      this.stroke(this.at);
    });
    this.drawn.addEventListener("pointermove", (event) => {
      const next = place(event);
      if (event.buttons) this.stroke(next);
      this.at = next;
      this.moved();
    });
    this.drawn.addEventListener("keydown", (event) => {
      const step = this.drawn.width / 32;
      const by = {
        ArrowLeft: [-step, 0],
        ArrowRight: [step, 0],
        ArrowUp: [0, -step],
        ArrowDown: [0, step],
        " ": [0, 0],
      }[event.key];
      if (!by) return;
      event.preventDefault();
      const next = [
        clamp(this.at[0] + by[0], this.drawn.width),
        clamp(this.at[1] + by[1], this.drawn.height),
      ];
      if (event.key === " " || event.shiftKey) this.stroke(next);
      this.at = next;
      this.moved();
    });
  }

  moved() {
    const share = (value, whole) => `${(100 * value) / whole}%`;
    const { width, height } = this.drawn;
    Object.assign(this.cursor.style, {
      left: share(this.at[0], width),
      top: share(this.at[1], height),
      width: share(2 * this.radius, width),
    });
  }

  stroke(to) {
    this.pen.lineWidth = 2 * this.radius;
    this.pen.lineCap = "round";
    this.pen.strokeStyle = "#14b39c";
    this.pen.beginPath();
    this.pen.moveTo(...this.at);
    this.pen.lineTo(to[0] + 0.01, to[1]);
    this.pen.stroke();
    this.marked = true;
  }

  clear() {
    this.pen.clearRect(0, 0, this.drawn.width, this.drawn.height);
    this.marked = false;
  }

  async mask() {
    const whole = new OffscreenCanvas(this.width, this.height);
    const pen = whole.getContext("2d");
    pen.fillRect(0, 0, this.width, this.height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(this.drawn, 0, 0, this.width, this.height);
    return whole.convertToBlob({ type: "image/png" });
  }
}

const clamp = (value, most) => Math.min(Math.max(value, 0), most);

customElements.define("brush-mask", BrushMask);
export const brushMask = (blob) => document.createElement("brush-mask").setup(blob);
