package io.reactivex.rxjava3.core;

import io.reactivex.rxjava3.functions.Action;
import io.reactivex.rxjava3.functions.Consumer;

public abstract class Completable {
    public final Object subscribe(Action onComplete, Consumer<? super Throwable> onError) { throw new UnsupportedOperationException(); }
}
