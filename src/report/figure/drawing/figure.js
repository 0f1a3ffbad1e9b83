"use strict";
const figure = document.getElementById("figure");
const tip = document.getElementById("tip");
const whole = figure.getAttribute("viewBox").split(" ").map(Number);
let view = whole.slice();

function show(next) {
  view = next;
  figure.setAttribute("viewBox", view.join(" "));
}

// Values under the pointer.
figure.addEventListener("pointermove", (event) => {
  const value = event.target.dataset.value;
  tip.style.display = value ? "block" : "none";
  if (!value) return;
  tip.textContent = value;
  const right = event.clientX + 14 + tip.offsetWidth > window.innerWidth;
  const low = event.clientY + 14 + tip.offsetHeight > window.innerHeight;
  tip.style.left = event.clientX + (right ? -tip.offsetWidth - 10 : 14) + "px";
  tip.style.top = event.clientY + (low ? -tip.offsetHeight - 10 : 14) + "px";
});
figure.addEventListener("pointerleave", () => { tip.style.display = "none"; });

// Zoom around the pointer, never out of the figure.
figure.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = figure.getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const factor = event.deltaY < 0 ? 0.8 : 1.25;
  const width = Math.min(view[2] * factor, whole[2]);
  const height = Math.min(view[3] * factor, whole[3]);
  show([view[0] + across * (view[2] - width), view[1] + down * (view[3] - height), width, height]);
}, { passive: false });
figure.addEventListener("dblclick", () => show(whole.slice()));

// Move.
let drag = null;
figure.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, view: view.slice() };
  figure.setPointerCapture(event.pointerId);
});
figure.addEventListener("pointerup", () => { drag = null; });
figure.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const box = figure.getBoundingClientRect();
  const dx = (event.clientX - drag.x) / box.width * view[2];
  const dy = (event.clientY - drag.y) / box.height * view[3];
  show([drag.view[0] - dx, drag.view[1] - dy, view[2], view[3]]);
});
